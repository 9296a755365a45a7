# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.torch import learned
from moptcore.torch.qat import LearnedQuantizer, QuantizedLayer
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.hidden = nn.Linear(72, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = nn.functional.relu6(self.depth(x))
        return self.head(torch.tanh(self.hidden(x.flatten(1))))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 5


def train(model: nn.Module, steps: int, rate: float = 0.01, after: Any = lambda: None) -> float:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        x, y = batch(step % 3)
        loss = nn.functional.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
    return float(loss.detach())


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("with_zero", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_devices_compute_what_the_core_computes(
    axis: int | None, with_zero: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 3 * torch.randn(6, 4, 5, dtype=dtype)
    shape = () if axis is None else (x.shape[axis],)
    scale = (torch.rand(shape) + 0.1).float()
    zero = 2 * torch.randn(shape) if with_zero else None
    grad = torch.randn_like(x)

    def run(on_cpu: bool) -> tuple[torch.Tensor, ...]:
        inputs = [each.clone().requires_grad_() for each in (x, scale, zero) if each is not None]
        with monkeypatch.context() as patch:
            if not on_cpu:
                # A tensor that says that it is elsewhere takes the way of torch operations.
                patch.setattr(learned, "_core", None)
                patch.setattr(torch.Tensor, "is_cpu", property(lambda _: False))
            y = mct.lsq(*inputs[:2], inputs[2] if with_zero else None, -7, 7, axis)
            y.backward(grad)
        return y.detach(), *(each.grad for each in inputs)

    for one, other in zip(run(True), run(False), strict=True):
        assert one.dtype == other.dtype
        # The core sums in double, as torch does there: the last bit of the results' dtype.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_the_gradient_of_the_scale_is_that_of_its_formula() -> None:
    x = torch.tensor([0.3, -2.0, 0.9, 5.0])
    scale = torch.tensor(0.5, requires_grad=True)
    mct.lsq(x, scale, None, -3, 3).sum().backward()
    # x / s: 0.6, -4, 1.8, 10; rounded less itself, or the bound beyond it.
    expected = (0.4 - 3 + 0.2 + 3) / np.sqrt(4 * 3)
    assert float(scale.grad) == pytest.approx(expected, rel=1e-6)  # float32


def test_scales_are_trained_and_learn_more_than_frozen_ones() -> None:
    torch.manual_seed(3)
    plain = Net()
    model = mct.prepare_qat(plain, batch(0)[0], scales="learned")
    names = {name for name, _ in model.named_parameters() if name.startswith("_quant.")}
    assert {name.rpartition(".")[2] for name in names} == {"scale", "position"}
    frozen = copy.deepcopy(model)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(not name.startswith("_quant."))
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    assert train(model, 40) < 1.6  # from ln 5 = 1.609 of a guess
    moved = [name for name in names if not torch.equal(before[name], model.get_parameter(name))]
    # Zero points of what a ReLU bounds stay 0; all scales and the other zero points move.
    assert {name for name in names if name.endswith("scale")} <= set(moved)
    train(frozen, 3)
    for layer in frozen.get_submodule("_quant").children():
        if isinstance(layer, QuantizedLayer):
            assert torch.equal(layer._scale(layer.weight), layer.scale)


def test_the_grid_stays_within_its_bounds_whatever_the_optimizer_does() -> None:
    model = mct.prepare_qat(Net(), batch(0)[0], scales="learned")

    def disturb() -> None:
        for name, parameter in model.named_parameters():
            if name.startswith("_quant."):
                parameter.data.add_(torch.randn_like(parameter) * 10)

    train(model, 4, after=disturb)
    model.eval()
    assert bool(torch.isfinite(model(batch(1)[0])).all())
    for each in model.get_submodule("_quant").children():
        if isinstance(each, LearnedQuantizer):
            assert each.scale.item() > 0
            assert 0 <= int(each.zero_point) <= 255
            if each.bounds is not None:
                assert int(each.zero_point) == 0
                assert each.scale.item() * 255 <= each.bounds[1] * (1 + 1e-6)  # float32


def test_the_file_computes_what_training_saw(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = mct.prepare_qat(Net(), batch(0)[0], scales="learned")
    train(model, 20)
    model.eval()
    x = batch(5)[0]
    path = mct.export_onnx(model, x, tmp_path / "model.onnx")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    # A step of a grid inside may round the other way, and reaches an output by a weight below 1.
    step = max(
        each.scale.item()
        for each in model.get_submodule("_quant").children()
        if isinstance(each, LearnedQuantizer)
    )
    assert np.abs(found - model(x).detach().numpy()).max() <= step


def test_masks_and_codebooks_hold_on_learned_scales() -> None:
    plain = Net()
    pruner = mct.Pruner(plain, moptcore.prune.ConstantSparsity(0.5, 1, end_step=1))
    pruner.step()
    clusterer = mct.cluster(plain, 6)
    model = mct.prepare_qat(plain, batch(0)[0], scales="learned")
    compression = mct.Compression(pruner, clusterer, model)
    train(model, 5, after=compression.step)
    layers = [e for e in model.get_submodule("_quant").children() if isinstance(e, QuantizedLayer)]
    assert len(layers) == 4
    for layer in layers:
        integers = layer.folded().weight
        assert len(integers.unique()) <= 6
        assert int((integers == 0).sum()) >= round(integers.numel() * 0.5)


def test_neighbours_of_learned_scales_fit_one_lane() -> None:
    model = mct.prepare_qat(Net(), batch(0)[0], scales="learned")
    train(model, 10, rate=0.05)
    for layer in model.get_submodule("_quant").children():
        if isinstance(layer, QuantizedLayer):
            most = int(layer.folded().weight.abs().max())
            assert most <= (127 if layer._is_depthwise(layer.weight) else 63)


def test_the_state_carries_the_scales_and_strip_leaves_them_behind() -> None:
    model = mct.prepare_qat(Net(), batch(0)[0], scales="learned")
    train(model, 5)
    other = mct.prepare_qat(Net(), batch(2)[0], scales="learned")
    other.load_state_dict(model.state_dict())
    x = batch(7)[0]
    assert torch.equal(model.eval()(x), other.eval()(x))
    plain = mct.strip(model)
    assert type(plain) is Net
    assert not [name for name, _ in plain.named_parameters() if "_quant" in name]
    # What is not quantized yet loads too: its ranges stay as they are.
    other.load_state_dict(Net().state_dict(), strict=False)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"scale": torch.tensor([1.0, 2.0])},
            ValueError,
            r"scale must have shape \(\), got \(2,\)",
        ),
        ({"scale": torch.tensor(1)}, TypeError, "scale must have a floating dtype"),
        ({"scale": 0.5}, TypeError, "scale must be a Tensor, got float"),
        ({"scale": torch.tensor(-1.0)}, ValueError, "scale must be"),
        ({"axis": 3}, ValueError, r"axis must be in \[-2, 2\), got 3"),
        ({"qmin": 4, "qmax": 4}, ValueError, "qmin must be < qmax"),
        ({"x": torch.arange(4).reshape(2, 2)}, TypeError, "x must have a floating dtype"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type, text: str) -> None:
    given = {"x": torch.randn(2, 2), "scale": torch.tensor(0.1), **arguments}
    with pytest.raises(error, match=text):
        mct.lsq(**given)


def test_another_kind_of_scales_is_named() -> None:
    with pytest.raises(ValueError, match="scales must be one of"):
        mct.prepare_qat(Net(), batch(0)[0], scales="guessed")
