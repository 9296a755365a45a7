# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
from typing import Any

import moptcore
import moptcore.torch as mct
import pytest
import torch
from moptcore import prune
from moptcore.torch import composite

OPS = torch.ops.moptcore
FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tied(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Few different magnitudes, zeros of both signs and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(-3, 4, shape, generator=generator).to(dtype)
    weights[torch.rand(shape, generator=generator) < 0.05] = float("inf")
    weights[torch.rand(shape, generator=generator) < 0.05] = -0.0
    return weights


def arguments(labels: torch.Tensor | None = None, reduction: str = "batchmean") -> tuple[Any, ...]:
    return (labels, 2.0, 0.6, -1, 0.1, -100, reduction)


LABELS = torch.tensor([0, 3, -100, 6])


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("magnitude_mask", (sample(5, 7), 0.5)),
        ("magnitude_mask", (sample(5, 7).requires_grad_(), 0.5)),
        ("magnitude_mask", (sample(5, 7, dtype=torch.bfloat16).t(), 0.0)),
        ("apply_mask", (sample(5, 7).requires_grad_(), sample(5, 7) > 0)),
        ("apply_mask", (sample(5, 7).requires_grad_(), torch.arange(5, dtype=torch.uint8))),
        ("soft_target_loss", (sample(4, 7).requires_grad_(), sample(4, 7), *arguments(LABELS))),
        ("soft_target_loss", (sample(4, 7).requires_grad_(), sample(4, 7), *arguments())),
        (
            "soft_target_loss",
            (sample(4, 7).requires_grad_(), sample(4, 7, seed=1), *arguments(LABELS, "none")),
        ),
        (
            "soft_target_loss",
            (sample(4, 7, dtype=torch.float64), sample(4, 7).double(), *arguments(None, "sum")),
        ),
    ],
)
def test_opcheck_passes(operator: str, inputs: tuple[Any, ...]) -> None:
    results = torch.library.opcheck(getattr(OPS, operator).default, inputs)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("make", [sample, tied])
def test_composite_magnitude_masks_have_the_bits_of_the_core(
    make: Any, sparsity: float, dtype: torch.dtype
) -> None:
    for shape in [(1,), (7,), (13, 11), (4, 3, 5, 2), (40, 50)]:
        weights = make(*shape, dtype=dtype)
        expected = prune.magnitude_mask(weights, sparsity)
        assert torch.equal(composite.magnitude_mask(weights, sparsity), expected), shape
        assert int((~expected).sum()) == round(weights.numel() * sparsity)
        bits = prune.magnitude_mask(weights, sparsity, packed=True)
        assert torch.equal(composite.pack_bits(expected), bits)
        assert torch.equal(composite.unpack_bits(bits, shape), expected)


@pytest.mark.parametrize("make", [sample, tied])
def test_other_composite_masks_have_the_bits_of_the_core(make: Any) -> None:
    first, second = make(9, 10, seed=1), make(33, seed=2)
    for sparsity in (0.0, 0.3, 0.8):
        expected = prune.global_mask([first, second], sparsity)
        for mask, same in zip(
            composite.global_mask([first, second], sparsity), expected, strict=True
        ):
            assert torch.equal(mask, same)
    weights = make(6, 9, 4, seed=3)
    for n, m, axis in [(2, 4, -1), (1, 3, 1), (2, 4, 1), (3, 4, 0), (1, 8, 0)]:
        expected = prune.nm_mask(weights, n, m, axis)
        assert torch.equal(composite.nm_mask(weights, n, m, axis), expected), (n, m, axis)


def test_composite_masks_of_groups_agree_with_the_core_where_sums_are_exact() -> None:
    # Small integers: norms and sums are exact in any order, so equal groups tie exactly.
    weights = torch.randint(-3, 4, (8, 6, 5), generator=torch.Generator().manual_seed(0)).float()
    for axis in (0, 1, 2):
        for sparsity in (0.0, 0.4, 0.75):
            expected = prune.structured_mask(weights, sparsity, axis, expand=True)
            assert torch.equal(composite.structured_mask(weights, sparsity, axis), expected)
    # Block sizes whose means are exact too.
    matrix = weights.reshape(8, 30)
    for block in [(1, 1), (4, 1), (2, 2), (4, 8), (8, 16)]:
        for sparsity in (0.0, 0.5, 0.8):
            expected = prune.block_mask(matrix, sparsity, block)
            assert torch.equal(composite.block_mask(matrix, sparsity, block), expected), block


@pytest.mark.parametrize("shape", [(3, 2), (5, 8), (1, 7), (6, 9)])
def test_packed_structured_masks_have_the_shape_that_was_asked_for(shape: tuple[int, int]) -> None:
    # One bit a slice and one bit a weight may take the same number of bytes.
    weights = sample(*shape)
    for expand, unpacked in ((True, shape), (False, shape[:1])):
        mask = prune.structured_mask(weights, 0.4, expand=expand)
        bits = prune.structured_mask(weights, 0.4, expand=expand, packed=True)
        assert torch.equal(prune.unpack_mask(bits, unpacked), mask)


@pytest.mark.parametrize("function", [composite.magnitude_mask, mct.magnitude_mask])
def test_masks_refuse_nan_and_sparsity_out_of_range(function: Any) -> None:
    weights = sample(3, 3)
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(moptcore.Error, match=r"sparsity must be in \[0, 1\)"):
            function(weights, sparsity)
    weights[1, 1] = float("nan")
    with pytest.raises(moptcore.NonFiniteError, match=r"prune.magnitude_mask.*NaN"):
        function(weights, 0.5)


def test_apply_mask_writes_zeros_over_nan_and_passes_the_gradient() -> None:
    weights = sample(3, 5).requires_grad_()
    mask = sample(3, 5, seed=1) > 0
    with torch.no_grad():
        weights[~mask] = float("nan")
    for given in (mask, composite.pack_bits(mask)):
        masked = mct.apply_mask(weights, given)
        assert torch.equal(masked, composite.apply_mask(weights.detach(), given))
        assert torch.equal(masked == 0, ~mask)
        assert not torch.signbit(masked[~mask]).any()
        (gradient,) = torch.autograd.grad(masked.sum(), weights)
        assert torch.equal(gradient, mask.float())
    kept = sample(3, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: mct.apply_mask(w, mask), (kept,))
    assert torch.autograd.gradgradcheck(lambda w: mct.apply_mask(w, mask), (kept,))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
@pytest.mark.parametrize("with_labels", [True, False])
def test_the_composite_loss_is_that_of_the_core(
    axis: int, reduction: str, with_labels: bool
) -> None:
    student, teacher = sample(6, 4, 5, seed=1).double(), sample(6, 4, 5, seed=2).double()
    shape = list(student.shape)
    classes = shape.pop(axis)
    labels = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(3))
    labels[0, 0] = -1
    given = (labels if with_labels else None, 3.0, 0.4, axis, 0.2, -1, reduction)
    loss, grad = OPS.soft_target_loss.default(student, teacher, *given)
    same_loss, same_grad = composite.soft_target_loss(student, teacher, *given)
    # Sums of at most 30 rows of 6 terms of order 10 in double: 200 roundings of 1e-16 each.
    torch.testing.assert_close(loss, same_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, same_grad, rtol=1e-12, atol=1e-12)


def test_the_composite_refuses_labels_out_of_range() -> None:
    for bad in (7, -2):
        with pytest.raises(moptcore.Error, match=r"labels must be in \[0, 7\)"):
            composite.soft_target_loss(
                sample(2, 7), sample(2, 7), torch.tensor([0, bad]), 1.0, 0.5, -1, 0.0, -100, "sum"
            )


class Masked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(sample(6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = mct.apply_mask(self.weight, mct.magnitude_mask(self.weight, 0.5))
        return torch.nn.functional.linear(x, weight)


def test_operators_run_inside_a_compiled_module_without_graph_breaks() -> None:
    model, x = Masked(), sample(3, 8, seed=4)
    expected = torch.where(composite.magnitude_mask(model.weight, 0.5), model.weight.detach(), 0.0)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    torch.testing.assert_close(out, x @ expected.T)
    out.square().sum().backward()
    assert torch.equal(model.weight.grad == 0, expected == 0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("where", ["student", "teacher", "labels"])
def test_devices_that_disagree_are_named_and_nothing_is_computed(where: str) -> None:
    given = {"student": sample(4, 7), "teacher": sample(4, 7, seed=1), "labels": LABELS}
    given[where] = given[where].to("meta")
    other = "teacher" if where == "student" else where
    text = rf"{other}\w* must be on the device of student\w* \(.*\), got (meta|cpu)"
    values = tuple(given.values())
    for call in (
        lambda: mct.DistillationLoss()(*values),
        lambda: mct.soft_target_loss(*values),
        lambda: OPS.soft_target_loss.default(*values, *arguments()[1:]),
    ):
        with pytest.raises(moptcore.Error, match=text):
            call()


def test_a_mask_or_a_grid_on_another_device_is_named() -> None:
    weights, mask = sample(5, 7), sample(5, 7) > 0
    pairs = [(weights, mask.to("meta")), (weights.to("meta"), mask)]
    for pair in pairs:
        for apply in (mct.apply_mask, OPS.apply_mask.default):
            with pytest.raises(moptcore.Error, match=r"mask must be on the device of weights"):
                apply(*pair)
    scale, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    for name, grid in (
        ("scale", (scale.to("meta"), zero)),
        ("zero_point", (scale, zero.to("meta"))),
    ):
        for round_ in (mct.fake_quantize, OPS.fake_quantize.default):
            with pytest.raises(
                moptcore.Error, match=rf"{name} must be on the device of x \(cpu\), got meta"
            ):
                round_(weights, *grid, -128, 127)
    features = (weights, weights.to("meta"), sample(4, 7), sample(4, 7))
    with pytest.raises(moptcore.Error, match="teacher_features must be on the device of student"):
        mct.FeatureDistillationLoss()(*features)


def test_fake_quantize_is_differentiated_twice_as_a_linear_map_of_the_gradient() -> None:
    x = torch.tensor([0.3, 5.0, -0.4], requires_grad=True)
    upstream = torch.tensor([2.0, 3.0, 4.0], requires_grad=True)
    y = mct.fake_quantize(x, 0.01, 0)
    (grad,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    (again,) = torch.autograd.grad(grad, upstream, torch.ones(3))
    assert grad.tolist() == [2.0, 0.0, 4.0]
    assert again.tolist() == [1.0, 0.0, 1.0]


def test_lsq_refuses_second_derivatives() -> None:
    x = torch.ones(3, requires_grad=True)
    y = mct.lsq(x, torch.tensor(0.1, requires_grad=True))
    with pytest.raises(moptcore.UnsupportedError, match="create_graph must be False"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
