# SPDX-License-Identifier: Apache-2.0
"""Pruning at once with reconstruction, against layers worked out by hand and by definition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.prune import ConstantSparsity, CosineRegrowth, sparsegpt
from moptcore.torch import inputs, masking
from reference import prune as reference
from torch import nn
from torch.nn import functional as F  # noqa: N812

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.fixture(params=["core", "composite"])
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also as on devices that the core cannot reach."""
    if request.param == "composite":
        for module in (masking, inputs):
            monkeypatch.setattr(module, "on_core", lambda tensor: False)
    return str(request.param)


class Net(nn.Module):
    """Convolutions of all widths of groups, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.group = nn.Conv2d(8, 16, 3, stride=2, groups=2)
        self.fc = nn.Linear(16 * 9, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.group(F.relu(self.depth(x))))
        return self.head(F.dropout(F.relu(self.fc(x.flatten(1))), 0.1, self.training))


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four kinds of stripes in noise: what a small network learns in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=generator)
    ramp = torch.arange(8.0)
    waves = torch.stack(
        [torch.sin(a * ramp[:, None] + b * ramp) for a, b in [(0, 1), (1, 0), (1, 1), (1, -1)]]
    )
    x = waves[y] + 0.7 * torch.randn(count, 8, 8, generator=generator)
    return x[:, None], y


_TRAINED: dict[str, Any] = {}


def trained() -> Net:
    if not _TRAINED:
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), 0.005)
        for step in range(60):
            x, y = images(64, step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        _TRAINED.update(copy.deepcopy(model.state_dict()))
    model = Net()
    model.load_state_dict(_TRAINED)
    return model


def calibration() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [images(64, 1000 + each) for each in range(4)]


def mixed(samples: int, features: int) -> torch.Tensor:
    """Correlated inputs, which is where the other weights can make up for one."""
    x = torch.randn(samples, features) @ torch.randn(features, features) / features**0.5
    return x + 0.3 * torch.randn(samples, features)


def zeros(weight: torch.Tensor) -> int:
    return int((weight == 0).sum())


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 3), (7, 5, 6)),
    "vector": (lambda: nn.Linear(6, 3), (6,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (5, 4, 11)),
    "conv1d unbatched": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "same": (lambda: nn.Conv1d(4, 6, 4, padding="same", groups=2), (3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)), (5, 3, 9, 8)),
    "grouped": (lambda: nn.Conv2d(6, 9, 2, groups=3, padding=1), (5, 6, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (5, 4, 6, 5)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), (2, 3, 6, 5)),
    "reflect": (lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (2, 1, 3), padding=1, groups=2), (2, 2, 4, 3, 5)),
}


# A hint of torch about the speed of "same" with even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", LAYERS)
def test_the_hessian_gives_the_power_of_the_output(
    kind: str, everywhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = LAYERS[kind]
    # Convolutions in pieces of one sample.
    monkeypatch.setattr(inputs, "_PIECE", 1)
    layer, x = make().double(), torch.randn(2, *shape).double().unbind(0)
    hessian = inputs.Hessian()
    inputs.observe(layer, x, [("", layer)], lambda _, module, seen: hessian.update(module, seen))
    found = hessian.result()
    nn.init.zeros_(layer.bias)
    channel = -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1
    outputs = [layer(each).detach().movedim(channel, 0) for each in x]
    power = sum(each.reshape(len(each), -1).square().sum(1) for each in outputs)
    rows = layer.weight.detach().flatten(1).unflatten(0, (len(found), -1))
    predicted = 0.5 * ((rows @ found) * rows).sum(-1).flatten()
    # Sums of fewer than 1000 products, twice.
    torch.testing.assert_close(predicted, power, rtol=1e-12, atol=1e-12)


def test_layers_are_pruned_in_order_of_use_behind_pruned_ones(everywhere: str) -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Linear(10, 5)
            self.first = nn.Linear(12, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))

    model = Swapped().double()
    data = [mixed(40, 12).double() for _ in range(3)]
    old = copy.deepcopy(model)
    pruner = mct.prune_with_reconstruction(model, iter(data), 0.5)
    x = torch.cat(data)
    for name in ("first", "second"):
        layer, before = getattr(model, name), getattr(old, name)
        expected, kept = reference.sparsegpt(
            before.weight.detach().numpy(), (2 * x.T @ x).numpy(), sparsity=0.5, damping=0.01
        )
        np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(pruner.masks[f"{name}.weight"].numpy(), kept)
        change = (x @ (layer.weight - before.weight).T).norm() / (x @ before.weight.T).norm()
        row = next(each for each in pruner.coverage if each.name == f"{name}.weight")
        assert row.after["output_error"] == pytest.approx(float(change.detach()), rel=1e-9)
        assert row.after["nonzeros"] == layer.weight.numel() - zeros(layer.weight)
        assert torch.equal(layer.bias, before.bias)
        # The inputs of the second come from the pruned first.
        x = torch.tanh(layer(x)).detach()


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.75])
def test_outputs_stay_closer_than_after_pruning_by_magnitude(sparsity: float) -> None:
    x, y = images(500, 77)
    dense, model, small = trained().eval(), trained().eval(), trained().eval()
    pruner = mct.prune_with_reconstruction(model, calibration(), sparsity)
    mct.Pruner(small, ConstantSparsity(sparsity, 1)).step()
    with torch.no_grad():
        wanted = dense(x)
        errors = [float((each(x) - wanted).norm() / wanted.norm()) for each in (model, small)]
        right = [float((each(x).argmax(1) == y).float().mean()) for each in (dense, model, small)]
    assert right[0] > 0.9
    # Measured: errors 0.05, 0.17 and 0.66 against 0.15, 0.47 and 0.91; the accuracy of 100 % falls
    # at the last sparsity only, to 95 % against 62 %.
    assert errors[0] < 0.8 * errors[1]
    assert right[1] >= right[2]
    assert right[1] > right[0] - (0.02 if sparsity <= 0.5 else 0.15)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            assert zeros(weight) == round(weight.numel() * sparsity), name
            assert torch.equal(pruner.masks[name], weight != 0)
    assert {row.name for row in pruner.coverage if row.done} == {*pruner.masks}


def test_groups_share_the_zeros_evenly_and_are_pruned_by_their_own_inputs() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=4).double()
    data = [torch.randn(6, 4, 7, 7).double().cumsum(-1)]
    old = layer.weight.detach().clone()
    mct.prune_with_reconstruction(layer, data, 0.5)
    # 4.5 zeros of 9 each: two groups of 4, two of 5.
    assert sorted(zeros(group) for group in layer.weight) == [4, 4, 5, 5]
    for group, weight in enumerate(layer.weight.detach()):
        columns = F.unfold(data[0][:, group : group + 1], 3).movedim(1, 2).reshape(-1, 9)
        hessian = 2 * columns.T @ columns
        new, _ = sparsegpt(old[group].reshape(1, 9), hessian, sparsity=zeros(weight) / 9)
        torch.testing.assert_close(weight.reshape(1, 9), new, rtol=1e-9, atol=1e-12)
    nearly = nn.Conv1d(4, 4, 2, groups=4)
    mct.prune_with_reconstruction(nearly, [torch.randn(3, 4, 8)], 0.9)
    assert zeros(nearly.weight) == 7


def test_n_of_m_holds_along_the_input_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(8, 3)
    )
    data = [torch.randn(40, 8, 5, 5) for _ in range(2)]
    dense = copy.deepcopy(model)
    pruner = mct.prune_with_reconstruction(model, data, n=2, m=4)
    first, second, last = (pruner.masks[f"{each}.weight"] for each in (0, 2, 4))
    assert (first.unflatten(1, (2, 4)).sum(2) == 2).all()
    assert (second[:, :4].sum(1) == 2).all()
    assert second[:, 4:].all()
    assert (last.unflatten(1, (2, 4)).sum(2) == 2).all()
    assert "2 of 4 along axis 1" in pruner.summary()
    for name, mask in pruner.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    # Closer than the largest two of four, and what fills no group made up for the others, too.
    small = copy.deepcopy(dense)
    mct.Pruner(small, ConstantSparsity(0.5, 1), structure=(2, 4)).step()
    x = torch.cat(data)
    errors = [float((each(x) - dense(x)).detach().norm()) for each in (model, small)]
    assert errors[0] < errors[1]
    columns = F.unfold(torch.relu(model[0](x)).detach().double(), 3).movedim(1, 2).reshape(-1, 54)
    old, new = (each[2].weight.detach().double() for each in (dense, model))
    gradient = (new - old).flatten(1) @ (columns.T @ columns)
    free = torch.zeros(8, 6, 9, dtype=torch.bool)
    free[:, 4:] = True
    # Least squares leaves no gradient at the weights of the columns after all pruned ones, but for
    # damping (1 %) and float32.
    left = gradient[free.flatten(1)].norm()
    unrepaired = torch.where(free.flatten(1), 0.0, (new - old).flatten(1)) @ (columns.T @ columns)
    assert left < 0.05 * unrepaired[free.flatten(1)].norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_dtype_and_layout(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)).to(dtype)
    model[0].weight.data = model[0].weight.data.to(memory_format=torch.channels_last)
    strides = model[0].weight.stride()
    mct.prune_with_reconstruction(model, torch.randn(30, 4, 4, 4).to(dtype), 0.5)
    assert model[0].weight.stride() == strides
    assert zeros(model[0].weight) == 108
    assert zeros(model[3].weight) == 60
    assert model[0].weight.dtype == dtype


def test_nothing_else_changes() -> None:
    model = trained().train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    parameters = [id(each) for each in model.parameters()]
    random = torch.get_rng_state()
    mct.prune_with_reconstruction(model, calibration(), 0.5, include="fc")
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert parameters == [id(each) for each in model.parameters()]
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == (key != "fc.weight"), key


def test_the_zeros_stay_while_the_model_is_trained_on() -> None:
    model = trained()
    pruner = mct.prune_with_reconstruction(model, calibration(), 0.75)
    masks = pruner.masks

    def train(model: nn.Module, pruner: Any, optimizer: torch.optim.Optimizer, steps: Any) -> None:
        for step in steps:
            x, y = images(64, step)
            optimizer.zero_grad()
            F.cross_entropy(model.eval()(x), y).backward()
            optimizer.step()
            assert not pruner.step()

    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    train(model, pruner, optimizer, range(5))
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict(), pruner.state_dict()])
    train(model, pruner, optimizer, range(5, 10))
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask), name
    again = trained()
    optimizer = torch.optim.Adam(again.parameters(), 0.002)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    weights = {name: again.get_parameter(name) for name in masks}
    resumed = mct.Pruner(again, masks={name: each != 0 for name, each in weights.items()})
    resumed.load_state_dict(saved[2])
    train(again, resumed, optimizer, range(5, 10))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_clusters_keep_their_number_of_values() -> None:
    model = trained()
    clusterer = mct.cluster(model, 16, include=["fc", "head"])
    pruner = mct.prune_with_reconstruction(model, calibration(), 0.5)
    for layer in (model.fc, model.head):
        assert zeros(layer.weight) >= layer.weight.numel() // 2
        assert len(layer.weight.unique()) <= 16
    both = mct.Compression(pruner, clusterer)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(3):
        x, y = images(64, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        both.step()
        for layer in (model.fc, model.head):
            assert zeros(layer.weight) >= layer.weight.numel() // 2
            assert len(layer.weight.unique()) <= 16


@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"n": 2, "m": 4}])
def test_zeros_that_another_pruner_holds_stay(how: dict[str, Any]) -> None:
    model = trained()
    first = mct.Pruner(model, ConstantSparsity(0.4, 1), include=["group", "fc"])
    first.step()
    second = mct.prune_with_reconstruction(model, calibration(), **how)
    before = copy.deepcopy(model.state_dict())
    first.apply()
    second.apply()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for name, mask in first.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert zeros(weight) >= weight.numel() // 2
        assert torch.equal(second.masks[name], weight != 0)


def test_tied_weights_are_pruned_once_for_the_inputs_of_all_their_layers() -> None:
    class Tied(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight
            self.times = times

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.times):
                x = torch.tanh(self.one(x))
            return self.two(x)

    for times in (1, 2):
        model = Tied(times).double()
        x = mixed(60, 8).double()
        seen, y = [x], x
        for _ in range(times):
            y = torch.tanh(model.one(y)).detach()
            seen.append(y)
        rows = torch.cat(seen)
        new, mask = sparsegpt(model.one.weight.detach(), 2 * rows.T @ rows, sparsity=0.5)
        pruner = mct.prune_with_reconstruction(model, [x], 0.5)
        torch.testing.assert_close(model.one.weight.detach(), new, rtol=1e-9, atol=1e-12)
        assert model.two.weight is model.one.weight
        assert list(pruner.masks) == ["one.weight"]
        assert torch.equal(pruner.masks["one.weight"], mask)
        assert "tied: also two.weight" in pruner.coverage[0].reason


class Odd(nn.Module):
    """What cannot be pruned, each for its own reason."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.tied = nn.Linear(6, 9, bias=False)
        self.tied.weight = self.words.weight
        self.up = nn.ConvTranspose1d(6, 6, 3)
        self.idle = nn.Linear(6, 6)
        self.used = nn.Linear(6, 6)
        self.good = nn.Linear(6, 6)

    def forward(self, ids: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        x = F.linear(scale * self.words(ids), self.used.weight)
        return self.tied(self.good(input=x))


def test_coverage_says_why_and_strict_refuses_before_anything_changes() -> None:
    model = Odd()
    ids = torch.arange(8)[None]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(moptcore.CoverageError, match="does not reach it"):
        mct.prune_with_reconstruction(model, [ids], 0.5, include="idle", strict=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    batches = ({"ids": ids, "scale": 2.0} for _ in range(10))
    pruner = mct.prune_with_reconstruction(model, batches, 0.5, exclude="tied", batches=2)
    assert len(list(batches)) == 8
    rows = {row.name: row for row in pruner.coverage}
    assert list(pruner.masks) == ["good.weight"]
    assert [row.name for row in pruner.coverage if row.done] == ["good.weight"]
    assert rows["words.weight"].reason.startswith("excluded")
    assert not rows["words.weight"].selected
    assert rows["up.weight"].reason == "the inputs of ConvTranspose1d are not known"
    assert "the data does not reach it" in rows["idle.weight"].reason
    assert "used without calling the layer" in rows["used.weight"].reason
    rows = {row.name: row for row in mct.prune_with_reconstruction(Odd(), [ids], n=2, m=4).coverage}
    assert rows["words.weight"].reason == "the inputs of Embedding are not known"
    with pytest.warns(UserWarning, match="no parameter is selected"):
        narrow = mct.prune_with_reconstruction(nn.Linear(3, 2), [torch.randn(4, 3)], n=2, m=4)
    assert narrow.coverage[0].reason == "axis 1 has 3 weights, fewer than 4"
    assert mct.prune_with_reconstruction(model, [ids], 0.5, include="good", strict=True).masks


def test_what_does_not_fit_is_refused_and_an_error_leaves_all_weights() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(20, 8)
    before = copy.deepcopy(model.state_dict())
    for extra, text in [
        ({}, "exactly one of sparsity and n with m"),
        ({"sparsity": 0.5, "n": 2, "m": 4}, "exactly one of sparsity and n with m"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"n": 2}, "n and m must be integers with 1 <= n < m, got 2 and None"),
        ({"n": 4, "m": 4}, "n and m must be"),
        ({"sparsity": 0.5, "damping": -1.0}, "damping must be finite and >= 0, got -1.0"),
        ({"sparsity": 0.5, "block_size": 0}, "block_size must be an integer >= 1, got 0"),
        ({"sparsity": 0.5, "batches": 0}, "batches must be an integer >= 1 or None, got 0"),
        ({"sparsity": 0.5, "include": "nothing"}, "nothing"),
    ]:
        with pytest.raises(ValueError, match=text):
            mct.prune_with_reconstruction(model, [x], **extra)
    with pytest.raises(ValueError, match="data must hold at least one batch, got none"):
        mct.prune_with_reconstruction(model, [], 0.5)
    with pytest.raises(moptcore.CoverageError, match="does not reach it"):
        mct.prune_with_reconstruction(model, [x[:0]], 0.5, strict=True)
    wrong: Any = "model"
    with pytest.raises(TypeError, match="model must be a Module, got str"):
        mct.prune_with_reconstruction(wrong, [x], 0.5)
    # All inputs of the last layer are equal, so that its Hessian has rank 1.
    with torch.no_grad():
        model[0].weight[:] = model[0].weight[0]
        model[0].bias[:] = 5.0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"2.weight cannot be pruned: .*positive definite"):
        mct.prune_with_reconstruction(model, [x], 0.5, damping=0.0, include="2")
    bad = torch.full((20, 8), torch.inf)
    with pytest.raises(moptcore.NonFiniteError, match=r"0.weight cannot be pruned: .*finite"):
        mct.prune_with_reconstruction(model, [x, bad], 0.5)
    assert not any(module._forward_pre_hooks for module in model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) * torch.inf)

    late = Late()
    old = late.first.weight.detach().clone()
    with pytest.raises(moptcore.NonFiniteError, match=r"second.weight cannot be pruned"):
        mct.prune_with_reconstruction(late, [x], 0.5)
    assert torch.equal(late.first.weight, old)


def test_a_pruner_holds_masks_that_are_given() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    mask = torch.rand(8, 8) > 0.5
    pruner = mct.Pruner(model, masks={"0.weight": mask})
    old = model[0].weight.detach().clone()
    assert torch.equal(pruner.masks["0.weight"], mask)
    assert torch.equal(model[0].weight, old)
    assert not pruner.step()
    assert torch.equal(model[0].weight, torch.where(mask, old, 0.0))
    assert [(row.done, row.reason) for row in pruner.coverage] == [
        (True, ""),
        (False, "no mask is given"),
    ]
    assert "no update planned" in pruner.summary()
    with pytest.raises(moptcore.CoverageError, match="no mask is given"):
        mct.Pruner(model, masks={"0.weight": mask}, strict=True)
    # With a schedule they are where it starts, as regrowth from random masks wants it.
    started = mct.Pruner(model, ConstantSparsity(0.25, 2), masks={"0.weight": mask})
    assert len(started.coverage) == 2
    assert not started.step()
    assert torch.equal(started.masks["0.weight"], mask)
    assert started.step()
    assert int((~started.masks["0.weight"]).sum()) == 16
    model(torch.randn(5, 8)).sum().backward()
    rigl = mct.Pruner(model, masks={"0.weight": mask}, regrow=CosineRegrowth(0.5, 1, 10, 1))
    rigl.step()
    assert int(rigl.masks["0.weight"].sum()) == int(mask.sum())
    assert not torch.equal(rigl.masks["0.weight"], mask)
    for given, error, text in [
        (
            {"2.weight": mask},
            ValueError,
            "masks must be of parameters of the model, got '2.weight'",
        ),
        ({"0.weight": mask.float()}, TypeError, "masks must be bool tensors, got torch.float32"),
        ({"0.weight": [True]}, TypeError, "masks must be bool tensors, got list for 0.weight"),
        ({"0.weight": mask[0]}, ValueError, r"shape \(8, 8\), got \(8,\) for 0.weight"),
        ({"0.bias": mask[0]}, ValueError, "masks must be of selected parameters, got 0.bias"),
    ]:
        with pytest.raises(error, match=text):
            mct.Pruner(model, masks=given)
    model[1].weight = nn.Parameter(torch.randn(8, 8))
    model[0].weight = model[1].weight
    with pytest.raises(ValueError, match="masks must name a tied parameter once"):
        mct.Pruner(model, masks={"0.weight": mask, "1.weight": mask})
    assert list(mct.Pruner(model, masks={"1.weight": mask}).masks) == ["0.weight"]
    with pytest.raises(TypeError, match="schedule must have"):
        mct.Pruner(model)
