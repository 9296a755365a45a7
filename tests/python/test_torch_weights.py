# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect")
        self.line = nn.Conv1d(8, 6, 3, stride=2, dilation=2, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x)).flatten(2)[..., :33]
        return self.head(torch.relu(self.norm(self.line(x))).flatten(1))


def images(n: int = 24) -> torch.Tensor:
    # Inputs of very different sizes, as activations are: what AWQ and GPTQ are about.
    return torch.randn(n, 1, 8, 8) * torch.logspace(-1, 1, 8)


DATA = {"gptq", "awq", "adaround"}


def quantized(model: nn.Module, **options: Any) -> nn.Module:
    if options.get("method") in DATA:
        options["calibration"] = [(images(),) for _ in range(4)]
    return mct.quantize_weights(model.eval(), **options)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "hqq", "adaround"])
@pytest.mark.parametrize(("scheme", "levels"), [("weight_int8", 256), ("weight_int4", 16)])
@pytest.mark.parametrize("group_size", [None, 8, 7])
def test_weights_become_integers_and_scales(
    method: str, scheme: str, levels: int, group_size: int | None
) -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    small = quantized(model, scheme=scheme, method=method, group_size=group_size, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    plain = mct.strip(copy.deepcopy(small))
    assert type(plain) is Net
    for name in ("first", "line", "head"):
        weight = model.get_parameter(f"{name}.weight").detach().flatten(1)
        found = plain.get_parameter(f"{name}.weight").detach().flatten(1)
        layer = small.get_submodule(name)
        if layer._buffers["columns"] is not None:
            found = found * layer._buffers["columns"]
        width = group_size or weight.shape[1]
        for row in range(len(weight)):
            for start in range(0, weight.shape[1], width):
                distinct = found[row, start : start + width]
                scale = layer._buffers["scale"][row, start // width]
                # Values are whole steps apart, up to the rounding of float32.
                steps = (distinct - distinct[0]) / scale
                assert float((steps - steps.round()).abs().max()) < 1e-3
                assert float(steps.max() - steps.min()) <= levels - 1 + 1e-3
    # Dequantizing in forward is the same as having the rounded weights.
    x = images()
    assert torch.equal(small(x), plain.eval()(x))


def test_rounding_to_the_nearest_is_within_half_a_step() -> None:
    model = Net()
    for scheme, top in (("weight_int8", 127), ("weight_int4", 7)):
        plain = mct.strip(quantized(model, scheme=scheme, group_size=8))
        weight = model.head.weight.detach().reshape(10, -1)
        error = (plain.head.weight.detach() - weight).abs()
        groups = weight.reshape(10, 12, 8).abs().amax(2)
        step = (groups / top).repeat_interleave(8, 1)
        assert bool((error <= step * 0.5 * (1 + 1e-4)).all()), scheme  # float32 products


@pytest.mark.parametrize("method", ["gptq", "awq", "adaround"])
def test_calibrated_methods_keep_the_outputs_better(method: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(32, 24))
    mixing = torch.randn(32, 32) * torch.logspace(-1.5, 1.0, 32)
    batches = [torch.randn(64, 32) @ mixing for _ in range(4)]
    exact = [model(x) for x in batches]

    def error(small: nn.Module) -> float:
        pairs = zip(batches, exact, strict=True)
        return sum(float((small(x) - y).square().sum().detach()) for x, y in pairs)

    options: dict[str, Any] = {"scheme": "weight_int4", "group_size": 16}
    rounded = error(mct.quantize_weights(model, **options))
    kept = error(mct.quantize_weights(model, method=method, calibration=batches, **options))
    assert kept < rounded


def test_hqq_needs_no_data_and_loses_less_than_rounding() -> None:
    model = nn.Linear(64, 32)
    with torch.no_grad():
        model.weight.add_(0.1)  # not around zero, where a zero point helps
    options: dict[str, Any] = {"scheme": "weight_int4", "group_size": 16}
    errors = [
        float(
            (mct.strip(mct.quantize_weights(model, method=method, **options)).weight - model.weight)
            .abs()
            .sum()
            .detach()
        )
        for method in ("rtn", "hqq")
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_the_rounded_weights(dtype: torch.dtype) -> None:
    model = Net()
    small = quantized(model, scheme=str(dtype).removeprefix("torch."))
    plain = mct.strip(copy.deepcopy(small))
    for name in ("first", "line", "head"):
        weight = model.get_parameter(f"{name}.weight").detach()
        assert torch.equal(plain.get_parameter(f"{name}.weight"), weight.to(dtype).float())
    x = images()
    assert torch.equal(small(x), plain.eval()(x))
    assert small(x).dtype == torch.float32


def test_coverage_says_how_many_bytes_are_left_and_why_a_weight_is_not_done() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.Linear(6, 4))
    small = mct.quantize_weights(model, "weight_int4", exclude="2")
    rows = small.quantization_coverage
    assert [row.done for row in rows] == [False, True, False]
    assert "Embedding is not a Linear" in rows[0].reason
    assert rows[2].reason == "excluded by '2'"
    assert rows[1].before["bytes"] == 8 * 6 * 4
    assert rows[1].after == {"dtype": "int4", "bytes": 8 * 6 // 2 + 6 * 4}
    with pytest.raises(moptcore.CoverageError, match="Embedding is not a Linear"):
        mct.quantize_weights(model, strict=True)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.warns(UserWarning, match="no parameter is selected"):
        assert "tied" in mct.quantize_weights(tied).quantization_coverage[0].reason


def test_a_layer_that_calibration_does_not_reach_is_reported() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    batches = [torch.randn(8, 4)]
    small = mct.quantize_weights(Half(), method="gptq", calibration=batches)
    assert [row.done for row in small.quantization_coverage] == [True, False]
    assert type(small.unused) is nn.Linear
    with pytest.raises(moptcore.CoverageError, match="no batch of calibration reaches it"):
        mct.quantize_weights(Half(), method="gptq", calibration=batches, strict=True)


def test_the_layers_are_modules_like_others(tmp_path: Any) -> None:
    model = Net()
    small = quantized(model, scheme="weight_int4", group_size=8)
    x = images()
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(twin(x), small(x))
    other = quantized(Net(), scheme="weight_int4", group_size=8)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), small(x))
    root = mct.quantize_weights(nn.Linear(6, 3), "weight_int8")
    assert type(mct.strip(root)) is nn.Linear
    shared = nn.Linear(4, 4)
    twice = mct.quantize_weights(nn.Sequential(shared, nn.ReLU(), shared))
    assert twice[0] is twice[2]
    assert small.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("method", ["rtn", "gptq", "adaround"])
def test_dynamic_layers_compute_as_their_formula(method: str) -> None:
    model = Net()
    small = quantized(model, scheme="int8_dynamic", method=method, strict=True)
    layer = small.get_submodule("head")
    x = torch.randn(7, 96) + 0.3
    scale = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = torch.round(-min(x.min(), torch.tensor(0.0)) / scale)
    q = (torch.round(x / scale) + zero).clamp(0, 255) - zero
    weights = layer.integers.double() * layer.scale.double()
    expected = (q.double() * scale.double()) @ weights.T + model.head.bias.double()
    # One rounding of float32 in each of three factors and the sum.
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-6, atol=1e-6)
    assert bool(torch.isfinite(small(torch.zeros(2, 1, 8, 8))).all())


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_dynamic_layers_compute_as_onnx_runtime(kind: str) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper = onnx.helper
    layer: Any = nn.Linear(40, 7) if kind == "linear" else nn.Conv2d(3, 7, 3, padding=1)
    x = torch.randn(5, 40) if kind == "linear" else torch.randn(2, 3, 6, 6)
    # ONNX Runtime adds two neighbours in 16 bits on CPUs without VNNI, where large ones saturate;
    # our sums are exact. These are small but for one at the end, which has no other beside it.
    with torch.no_grad():
        rows = layer.weight.view(7, -1)
        rows.uniform_(-0.45, 0.45)
        rows[:, -1], rows[:, -2] = 1.0, 0.0
    small = mct.quantize_weights(layer, "int8_dynamic")
    along = (-1,) if kind == "linear" else (-1, 1, 1)
    integers = small.integers.numpy()
    if kind == "linear":
        weight, op, options = integers.T.copy(), "MatMulInteger", {}
    else:
        weight, op, options = integers.reshape(7, 3, 3, 3), "ConvInteger", {"pads": [1] * 4}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node(op, ["q", "w", "z"], ["sums"], **options),
        helper.make_node("Cast", ["sums"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["step"]),
        helper.make_node("Mul", ["wide", "step"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["y"]),
    ]
    constants = {
        "w": weight,
        "ws": small.scale.reshape(along).numpy(),
        "b": layer.bias.detach().reshape(along).numpy(),
    }
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    # Integer sums are equal; scaling and bias round in float32.
    np.testing.assert_allclose(small(x).detach().numpy(), found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"scheme": "int2"}, ValueError, "scheme must be one of"),
        ({"method": "best"}, ValueError, "method must be one of"),
        ({"method": "gptq"}, ValueError, "calibration must hold batches for method 'gptq'"),
        ({"scheme": "float16", "method": "hqq"}, ValueError, "method must be 'rtn'"),
        ({"scheme": "float16", "group_size": 8}, ValueError, "group_size must be None"),
        (
            {"scheme": "int8_dynamic", "method": "hqq"},
            ValueError,
            "method must be 'rtn', 'gptq' or 'adaround' with scheme 'int8_dynamic', got 'hqq'",
        ),
        ({"group_size": 0}, ValueError, "group_size must be >= 1, got 0"),
        ({"group_size": 8.0}, TypeError, "group_size must be an integer"),
        ({"include": "haed"}, ValueError, "nearest names: head"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        mct.quantize_weights(Net(), **options)
    with pytest.raises(TypeError, match="model must be a Module"):
        mct.quantize_weights(None)


def test_weights_and_inputs_that_are_not_finite_are_named() -> None:
    model = Net()
    with pytest.raises(moptcore.NonFiniteError, match=r"first\.weight finite inputs"):
        mct.quantize_weights(
            model, method="gptq", calibration=[torch.full((1, 1, 8, 8), float("inf"))]
        )
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(moptcore.NonFiniteError, match=r"head\.weight must not hold NaN"):
        mct.quantize_weights(model)


METHODS = ("rtn", "gptq", "awq", "hqq", "adaround")
COMBINATIONS = [
    *((scheme, method) for scheme in ("weight_int8", "weight_int4") for method in METHODS),
    *(("int8_dynamic", method) for method in ("rtn", "gptq", "adaround")),
    ("float16", "rtn"),
    ("bfloat16", "rtn"),
]


def few_values(layer: nn.Module) -> int:
    return len(layer.weight.detach().unique())


@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("state", ["pruned", "clustered", "both"])
@pytest.mark.parametrize(("scheme", "method"), COMBINATIONS)
def test_zeros_stay_zero_and_few_values_few(
    scheme: str, method: str, state: str, group_size: int | None
) -> None:
    if group_size is not None and not scheme.startswith("weight"):
        return
    model = Net()
    layers = ("first", "line", "head")
    if state != "clustered":
        mct.Pruner(model, lambda _: 0.5).step()
    zeros = {name: model.get_submodule(name).weight == 0 for name in layers}
    alive = mct.cluster(model, 6) if state != "pruned" else None
    most = {name: few_values(model.get_submodule(name)) for name in layers}
    small = quantized(model, scheme=scheme, method=method, group_size=group_size, strict=True)
    plain = mct.strip(small)
    for name in layers:
        found = plain.get_submodule(name).weight
        if state != "clustered":
            assert zeros[name].sum() == zeros[name].numel() // 2
            assert int(torch.count_nonzero(found[zeros[name]])) == 0
            assert int(torch.count_nonzero(found)) > found.numel() // 4
        if alive is not None:
            assert most[name] <= 6
            assert 1 < few_values(plain.get_submodule(name)) <= most[name]
    if alive is None:
        return
    rows = {row.name: row for row in small.quantization_coverage}
    by_values = scheme not in ("float16", "bfloat16")
    assert ("rounded" in rows["head.weight"].after) == by_values
    # Without its Clusterer a weight shows by its values that it was clustered.
    del alive
    plain = mct.strip(quantized(model, scheme=scheme, method=method, group_size=group_size))
    for name in ("line", "head"):
        assert 1 < few_values(plain.get_submodule(name)) <= most[name]


@pytest.mark.parametrize("scheme", ["weight_int8", "weight_int4", "int8_dynamic"])
@pytest.mark.parametrize("sizes", [(0, None), (0, 3), (1, None), (1, 2), (-1, None), (None, 50)])
def test_codebooks_of_parts_keep_their_few_values(
    scheme: str, sizes: tuple[int | None, int | None]
) -> None:
    axis, group_size = sizes
    layer = nn.Linear(40, 12)
    held = mct.cluster(layer, 4, axis=axis, group_size=group_size)
    after = mct.strip(mct.quantize_weights(layer, scheme)).weight.detach()
    parts = after.flatten().split(group_size or 1) if axis is None else ()
    if axis is not None:
        parts = after.movedim(axis, 0).split(group_size or 1)
    assert max(len(part.unique()) for part in parts) <= 4
    # The grid reaches as far as the values that share it.
    rows = layer.weight.detach().abs().amax(1)
    if axis == 0:
        peaks = torch.cat([each.amax().expand(len(each)) for each in rows.split(group_size or 1)])
    else:
        peaks = rows.amax().expand(12)
    half = peaks[:, None] / (7 if scheme == "weight_int4" else 127) / 2
    assert bool(((after - layer.weight).abs() <= half * (1 + 1e-5)).all())  # float32 products
    assert len(held.codebooks) == 1


def test_layers_of_one_codebook_keep_it_together() -> None:
    model = Net()
    held = mct.weight_share(model, 8)
    plain = mct.strip(quantized(model, scheme="weight_int8", method="gptq"))
    layers = (plain.first, plain.line, plain.head)
    assert len(torch.cat([layer.weight.detach().flatten() for layer in layers]).unique()) == 8
    assert len(held.codebooks) == 3


def test_weights_put_behind_a_clusterer_are_not_those_of_its_codebook() -> None:
    model = nn.Linear(64, 32)
    other = copy.deepcopy(model)
    held = mct.cluster(model, 4)
    model.load_state_dict(other.state_dict())
    found = mct.strip(mct.quantize_weights(model))
    assert torch.equal(found.weight, mct.strip(mct.quantize_weights(other)).weight)
    assert len(held.codebooks) == 1


def test_rows_of_one_value_each_keep_their_scales() -> None:
    layer = nn.Linear(16, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.logspace(-3, 0, 4)[:, None].expand(4, 16))
    small = mct.strip(mct.quantize_weights(layer, "weight_int4"))
    # As few values, and none of them rounded away by the scale of the largest: 7 * (w / 7).
    torch.testing.assert_close(small.weight, layer.weight, rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@pytest.mark.parametrize("scheme", ["weight_int8", "weight_int4", "int8_dynamic"])
def test_learned_rounding_of_pruned_weights_beats_the_nearest(method: str, scheme: str) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 32))
    mct.Pruner(model, lambda _: 0.5).step()
    zeros = model[0].weight == 0
    # Correlated inputs: what one weight cannot do, another that is not pruned can.
    mixing = torch.logspace(-1.5, 1.0, 64)[:, None] * torch.randn(64, 64)
    batches = [torch.randn(128, 64) @ mixing for _ in range(4)]

    def error(**options: Any) -> float:
        plain = mct.strip(mct.quantize_weights(model, scheme, **options))
        assert not int(torch.count_nonzero(plain[0].weight[zeros]))
        return sum(float((plain(x) - model(x)).detach().square().sum()) for x in batches)

    assert error(method=method, calibration=batches) < 0.8 * error()


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "awq", "adaround"])
def test_groups_larger_than_a_row_are_the_row(method: str) -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(32, 6)
    data = [x] if method in ("gptq", "awq", "adaround") else None
    wide = mct.quantize_weights(model, "weight_int4", 10**8, method, data)
    row = mct.quantize_weights(model, "weight_int4", 6, method, data)
    assert torch.equal(wide(x), row(x))
    assert wide[0].weight_bytes == row[0].weight_bytes


def test_calibration_is_a_tensor_or_batches_of_which_there_is_one() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)).eval(), torch.randn(32, 6)
    whole = mct.quantize_weights(model, method="gptq", calibration=x)
    batch = mct.quantize_weights(model, method="gptq", calibration=[x])
    assert torch.equal(whole(x), batch(x))
    read = iter([x])
    mct.quantize_weights(model, method="gptq", calibration=read)
    for given in ([], read):
        with pytest.raises(moptcore.Error, match="calibration must hold at least one batch"):
            mct.quantize_weights(model, method="gptq", calibration=given)
    for wrong in (3, "data"):
        for change in (
            lambda wrong=wrong: mct.quantize_weights(model, method="gptq", calibration=wrong),
            lambda wrong=wrong: mct.quantize_static(model, wrong),
            lambda wrong=wrong: mct.factorize(model, rank=1, calibration=wrong),
            lambda wrong=wrong: mct.prune_with_reconstruction(model, wrong, 0.5),
        ):
            with pytest.raises(TypeError, match="must be a tensor or an iterable of batches"):
                change()


def test_dynamic_layers_do_not_export_and_say_what_does(tmp_path: Any) -> None:
    pytest.importorskip("onnx")
    model, x = nn.Sequential(nn.Linear(6, 4)).eval(), torch.randn(2, 6)
    small = mct.quantize_weights(model, "int8_dynamic")
    path = tmp_path / "model.onnx"
    with pytest.raises(moptcore.UnsupportedError, match=r"strip\(\) first, or .*got 0$"):
        mct.export_onnx(small, x, path)
    assert not path.exists()
    mct.export_onnx(mct.strip(small), x, path)
    assert path.exists()
