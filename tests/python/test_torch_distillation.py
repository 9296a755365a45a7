# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
from typing import Any

import moptcore
import moptcore.torch as mct
import pytest
import torch
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def logits(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def classes(*shape: int, count: int, seed: int = 9) -> torch.Tensor:
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed))


def composite(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 4.0,
    alpha: float = 0.7,
    **cross_entropy: Any,
) -> torch.Tensor:
    """The loss as torch users write it."""
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    hard = functional.cross_entropy(student, labels, **cross_entropy)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.7), (1.0, 0.5), (2.5, 0.0), (8.0, 1.0)])
def test_loss_and_gradient_are_those_of_torch(
    temperature: float, alpha: float, dtype: torch.dtype
) -> None:
    student = logits(16, 10, seed=1, dtype=dtype).requires_grad_()
    teacher, labels = logits(16, 10, seed=2, dtype=dtype), classes(16, count=10)
    loss = mct.DistillationLoss(temperature, alpha)(student, teacher, labels)
    expected = composite(student.double(), teacher.double(), labels, temperature, alpha)
    # Ten terms a row, each good to a few units in the last place of values up to 2 T^2 / T.
    rtol = 20 * torch.finfo(dtype).eps * max(temperature, 4.0)
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=rtol)
    (found,) = torch.autograd.grad(3.0 * loss, student)
    (wanted,) = torch.autograd.grad(3.0 * expected, student)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol)


def test_smoothed_labels_are_those_of_torch() -> None:
    student, teacher = logits(8, 5, seed=1, dtype=torch.float64), logits(8, 5, seed=2).double()
    labels = classes(8, count=5)
    loss = mct.DistillationLoss(2.0, 0.3, label_smoothing=0.1)(student, teacher, labels)
    expected = composite(student, teacher, labels, 2.0, 0.3, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_ignored_rows_count_neither_in_the_terms_nor_in_the_divisor() -> None:
    student, teacher = logits(6, 5, seed=1).requires_grad_(), logits(6, 5, seed=2)
    labels = torch.tensor([1, -100, 4, 0, -100, 2])
    counted = labels >= 0
    loss_fn = mct.DistillationLoss()
    loss = loss_fn(student, teacher, labels)
    # The same rows in the same order: the same sums, so the same bits.
    assert torch.equal(loss, loss_fn(student[counted], teacher[counted], labels[counted]))
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient[~counted] == 0).all()
    assert (gradient[counted] != 0).any(1).all()
    everything = loss_fn(student, teacher, torch.full((6,), -100))
    assert float(everything.detach()) == 0.0


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
def test_gradients_are_exact_along_any_axis(axis: int, reduction: str) -> None:
    student = logits(3, 4, 5, seed=1, dtype=torch.float64).requires_grad_()
    teacher = logits(3, 4, 5, seed=2, dtype=torch.float64)
    rows = (3, 5) if axis == 1 else (3, 4)
    labels = classes(*rows, count=student.shape[axis])
    loss_fn = mct.DistillationLoss(3.0, 0.6, axis=axis, reduction=reduction)
    assert loss_fn(student, teacher, labels).shape == (rows if reduction == "none" else ())
    assert torch.autograd.gradcheck(lambda s: loss_fn(s, teacher, labels), (student,))
    assert torch.autograd.gradcheck(lambda s: loss_fn(s, teacher), (student,))


def test_without_labels_only_the_teacher_counts() -> None:
    student, teacher = logits(4, 6, seed=1), logits(4, 6, seed=2)
    labels = classes(4, count=6)
    alone = mct.DistillationLoss(2.0, 0.3)(student, teacher)
    assert torch.equal(alone, mct.DistillationLoss(2.0, 1.0)(student, teacher, labels))


def test_equal_logits_have_no_divergence() -> None:
    student = logits(4, 6, seed=1).requires_grad_()
    loss = mct.DistillationLoss()(student, student.detach().clone())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert float(student.grad.abs().max()) < 1e-6


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(4, 6, seed=1), logits(4, 6, seed=2).requires_grad_()
    assert not mct.DistillationLoss()(student, teacher).requires_grad
    loss = mct.DistillationLoss()(student.requires_grad_(), teacher)
    loss.backward()
    assert teacher.grad is None


def test_autocast_computes_in_float32() -> None:
    student = logits(8, 10, seed=1, dtype=torch.bfloat16).requires_grad_()
    teacher, labels = logits(8, 10, seed=2, dtype=torch.bfloat16), classes(8, count=10)
    loss_fn = mct.DistillationLoss()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_fn(student, teacher, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_fn(student.float(), teacher.float(), labels))
    loss.backward()
    assert student.grad.dtype == torch.bfloat16
    assert torch.isfinite(student.grad).all()


def test_half_precision_logits_give_a_float32_loss() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = (logits(8, 10, seed=seed, dtype=dtype) for seed in (1, 2))
        loss = mct.DistillationLoss()(student, teacher)
        wide = mct.DistillationLoss()(student.float(), teacher.float())
        assert loss.dtype == torch.float32
        # The same numbers in, float arithmetic in both.
        torch.testing.assert_close(loss, wide, rtol=1e-6, atol=1e-6)
    mixed = mct.DistillationLoss()(student, teacher.float())
    torch.testing.assert_close(mixed, wide, rtol=1e-6, atol=1e-6)


def test_it_compiles_to_one_graph() -> None:
    loss_fn = mct.DistillationLoss(2.0, 0.6, label_smoothing=0.1)
    student, teacher = logits(8, 10, seed=1), logits(8, 10, seed=2)
    labels = classes(8, count=10)
    results = []
    for function in (loss_fn, torch.compile(loss_fn, fullgraph=True, backend="aot_eager")):
        leaf = student.clone().requires_grad_()
        loss = function(leaf, teacher, labels)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_second_derivatives_are_refused_instead_of_wrong() -> None:
    student = logits(4, 6, seed=1).requires_grad_()
    loss = mct.DistillationLoss()(student, logits(4, 6, seed=2))
    with pytest.raises(moptcore.UnsupportedError, match="second derivatives"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_modules_survive_copies_and_pickles() -> None:
    adaptor = nn.Linear(3, 4)
    features = mct.FeatureDistillationLoss(adaptor=adaptor)
    inputs = (
        logits(5, 3, seed=1),
        logits(5, 4, seed=2),
        logits(5, 6, seed=3),
        logits(5, 6, seed=4),
    )
    for module, given in ((mct.DistillationLoss(), inputs[2:]), (features, inputs)):
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(*given), module(*given))
    assert list(features.state_dict()) == ["adaptor.weight", "adaptor.bias"]
    assert "temperature=4.0, alpha=0.7" in repr(mct.DistillationLoss())


def test_feature_loss_is_the_weighted_sum_and_trains_its_adaptor() -> None:
    student, teacher = logits(5, 3, seed=1).requires_grad_(), logits(5, 4, seed=2)
    outputs = (logits(5, 6, seed=3), logits(5, 6, seed=4), classes(5, count=6))
    adaptor = nn.Linear(3, 4)
    loss = mct.FeatureDistillationLoss(0.3, 0.7, adaptor)(student, teacher, *outputs)
    expected = 0.3 * functional.mse_loss(adaptor(student), teacher) + 0.7 * composite(*outputs)
    # Two sums of 20 and 30 terms of order 10 in float.
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert adaptor.weight.grad.abs().sum() > 0
    assert student.grad.abs().sum() > 0


def test_a_student_learns_from_a_teacher() -> None:
    teacher, student = nn.Linear(6, 4), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    loss_fn = mct.DistillationLoss(2.0, 1.0)
    x = torch.randn(128, 6)
    losses = []
    for _ in range(150):
        with torch.no_grad():
            target = 3.0 * teacher(x)
        optimizer.zero_grad()
        loss = loss_fn(student(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    agreement = (student(x).argmax(1) == target.argmax(1)).float().mean()
    assert agreement > 0.9


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"temperature": 0.0}, "temperature must be finite and > 0, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be finite and > 0, got inf"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"alpha": float("nan")}, r"alpha must be in \[0, 1\], got nan"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\], got -0.1"),
        ({"reduction": "mean"}, "reduction must be one of .*got 'mean'"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(moptcore.Error, match=rf"\[torch.DistillationLoss\] {text}"):
        mct.DistillationLoss(**arguments)


def test_bad_inputs_are_named() -> None:
    loss_fn = mct.DistillationLoss()
    student = logits(4, 6, seed=1)
    with pytest.raises(moptcore.Error, match=r"teacher_logits must match .*\(4, 6\), got \(4, 5\)"):
        loss_fn(student, logits(4, 5, seed=2))
    with pytest.raises(TypeError, match="student_logits must be a Tensor, got ndarray"):
        loss_fn(student.numpy(), student)
    with pytest.raises(moptcore.DTypeError, match="labels must have an integer dtype"):
        loss_fn(student, student, torch.zeros(4))
    for bad in (6, -1):
        with pytest.raises(moptcore.Error, match="labels must be"):
            loss_fn(student, student, torch.tensor([0, 1, bad, 2]))
    with pytest.raises(moptcore.Error, match="labels"):
        loss_fn(student, student, torch.tensor([0, 1]))
    with pytest.raises(moptcore.Error, match=r"\(5, 4\), got \(5, 3\); pass an adaptor"):
        mct.FeatureDistillationLoss()(
            logits(5, 3, seed=1), logits(5, 4, seed=2), student[:4], student[:4]
        )
    with pytest.raises(moptcore.Error, match="feature_weight must be finite and >= 0, got -1"):
        mct.FeatureDistillationLoss(feature_weight=-1)


def test_arguments_of_another_kind_are_named() -> None:
    student, teacher = logits(4, 6, seed=1), logits(4, 6, seed=2)
    loss_fn = mct.DistillationLoss()
    labels: Any
    for labels, text in (
        (torch.zeros(4, dtype=torch.int64).numpy(), "labels must be a Tensor, got ndarray"),
        (torch.zeros(4), "labels must have an integer dtype, got torch.float32"),
    ):
        with pytest.raises(moptcore.DTypeError, match=text):
            loss_fn(student, teacher, labels)
    bad: Any = "a"
    for name in ("temperature", "alpha", "label_smoothing", "axis", "ignore_index"):
        with pytest.raises(TypeError, match=rf"{name} must be an? \w+.*, got 'a'"):
            mct.DistillationLoss(**{name: bad})
    with pytest.raises(TypeError, match="output_weight must be a number finite and >= 0, got None"):
        mct.FeatureDistillationLoss(output_weight=None)  # type: ignore[arg-type]
