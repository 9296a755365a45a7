# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
from typing import Any

import moptcore as mc
import moptcore.prune
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from python.torch_networks import Residual, networks, trained
from reference import integer as reference
from torch import nn
from torch.nn import functional as F  # noqa: N812

runtime = pytest.importorskip(
    "moptcore._runtime", reason="built without oneDNN", exc_type=ModuleNotFoundError
)
NETWORKS = sorted(set(networks()) - {"conv3d"})

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=mc._core.available_isas())
def isa(request: Any) -> Any:
    mc._core.set_max_isa(request.param)
    yield request.param
    mc._core.set_max_isa("")


def _operands(
    rng: np.random.Generator, shape: tuple[int, ...], weight: tuple[int, ...], extreme: bool
) -> tuple[Any, ...]:
    """x, its scale and zero point, weights and bias: random, or all at the ends of their range."""
    zero_point = int(rng.choice([0, 255, rng.integers(0, 256)]))
    ends = [0, 255] if extreme else range(256)
    q = rng.choice(ends, shape)
    x = ((q - zero_point) * np.float32(0.017)).astype(np.float32)
    x += rng.uniform(-0.004, 0.004, shape).astype(np.float32)
    ends = [-128, 127] if extreme else range(-128, 128)
    w = rng.choice(ends, weight).astype(np.int8)
    scale = rng.uniform(1e-3, 1.0, weight[0]).astype(np.float32) * rng.choice([-1, 1], weight[0])
    limit = 2**31 - 1 if extreme else 10**5
    bias = rng.integers(-limit, limit, weight[0]).astype(np.int32)
    return x, 0.017, zero_point, w, scale.astype(np.float32), bias


@pytest.mark.parametrize("extreme", [False, True])
def test_linear_equals_the_loops_bit_for_bit(isa: str, extreme: bool) -> None:
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in (
        [(1, 1, 1), (3, 7, 5), (97, 33, 17), (8, 64, 32), (5, 1030, 16), (4, 3, 40), (200, 8, 9)]
        if isa != "baseline"
        else [(1, 1, 1), (7, 33, 17), (5, 600, 16)]
    ):
        arguments = _operands(rng, (rows, inputs), (outputs, inputs), extreme)
        expected = reference.linear(*arguments)
        np.testing.assert_array_equal(runtime.integer_linear(*arguments), expected)
        flat = runtime.integer_linear(*arguments[:-1])
        np.testing.assert_array_equal(flat, reference.linear(*arguments[:-1]))


@pytest.mark.parametrize("extreme", [False, True])
def test_convolution_equals_the_loops_bit_for_bit(isa: str, extreme: bool) -> None:
    rng = np.random.default_rng(1)
    for trial in range(40):
        groups = int(rng.choice([1, 1, 2, 3]))
        channels, outputs = (int(n) * groups for n in rng.integers(1, 6, 2))
        if trial % 5 == 0:
            groups = channels = outputs = int(rng.integers(1, 9))  # depthwise
        kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
        before, after, dilation = (rng.integers(0, 4, 2) for _ in range(3))
        dilation = np.maximum(dilation, 1)
        size = dilation * (kernel - 1) + 1 + rng.integers(0, 20, 2)
        if trial % 4 == 1:
            # Rows of whole vectors.
            size[1] = dilation[1] * (kernel[1] - 1) + 1 + 31 * stride[1] - before[1] - after[1]
            size = np.maximum(size, 1)
        shape: tuple[int, ...] = (int(rng.integers(1, 4)), channels, *map(int, size))
        weight: tuple[int, ...] = (outputs, channels // groups, *map(int, kernel))
        if trial % 7 == 3:
            shape, weight = (*shape[:2], shape[3]), (*weight[:2], weight[3])
        arguments = _operands(rng, shape, weight, extreme)
        options = ([int(n) for n in each] for each in (stride, before, after, dilation))
        everything = (*arguments, *options, groups)
        np.testing.assert_array_equal(
            runtime.integer_convolution(*everything),
            reference.convolution(*everything),
            err_msg=f"{shape} {weight} {everything[6:]}",
        )


def test_every_sum_of_the_largest_layer_fits() -> None:
    # 255 * -128 in every product of the longest sum that is taken: -2147450880.
    inputs = runtime.INTEGER_DEPTH
    x = np.full((1, inputs), 255.0, np.float32)
    weight = np.full((1, inputs), -128, np.int8)
    one = np.ones(1, np.float32)
    assert runtime.integer_linear(x, 1.0, 0, weight, one)[0, 0] == np.float32(-32640 * inputs)
    bias = np.array([-(2**31)], np.int32)
    expected = np.float32(-32640 * inputs - 2**31)
    assert runtime.integer_linear(x, 1.0, 0, weight, one, bias)[0, 0] == expected
    more = np.zeros((1, inputs + 1), np.float32)
    with pytest.raises(mc.UnsupportedError, match=r"weight must have at most 65793 elements per"):
        runtime.integer_linear(more, 1.0, 0, more.astype(np.int8), one)


def test_threads_and_frameworks_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(2)
    arguments = _operands(rng, (9, 5, 13, 11), (6, 5, 3, 3), False)
    options = ((1, 1), (1, 1), (1, 1), (1, 1))
    expected = runtime.integer_convolution(*arguments, *options)
    threads = mc.get_num_threads()
    try:
        mc.set_num_threads(4)
        np.testing.assert_array_equal(runtime.integer_convolution(*arguments, *options), expected)
    finally:
        mc.set_num_threads(threads)
    tensors = (torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments)
    found = runtime.integer_convolution(*tensors, *options)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_runtime_names_a_bad_argument() -> None:
    x, w, s = np.ones((2, 3), np.float32), np.ones((4, 3), np.int8), np.ones(4, np.float32)
    call = runtime.integer_linear
    with pytest.raises(mc.NonFiniteError, match=r"\[runtime.integer_linear\] x must not contain"):
        call(x * np.nan, 1.0, 0, w, s)
    with pytest.raises(TypeError, match="x must have dtype float32, got float64"):
        call(x.astype(np.float64), 1.0, 0, w, s)
    with pytest.raises(mc.Error, match=r"x must have 3 elements in its last dimension"):
        call(x[:, :2].copy(), 1.0, 0, w, s)
    with pytest.raises(mc.Error, match=r"weight_scale must have one element per output \(4\), got"):
        call(x, 1.0, 0, w, s[:3])
    with pytest.raises(mc.Error, match=r"bias must have shape \(4,\), got \(3,\)"):
        call(x, 1.0, 0, w, s, np.ones(3, np.int32))
    with pytest.raises(mc.UnsupportedError, match="contiguous"):
        call(np.ones((3, 2), np.float32).T, 1.0, 0, w, s)
    image, kernel = np.ones((1, 4, 5, 5), np.float32), np.ones((2, 4, 3, 3), np.int8)

    def convolve(**changed: Any) -> Any:
        options = {"stride": (1, 1), "before": (0, 0), "after": (0, 0), "dilation": (1, 1)}
        scales = np.ones(2, np.float32)
        return runtime.integer_convolution(
            image, 1.0, 0, kernel, scales, None, **{**options, **changed}
        )

    for changed, text in (
        ({"groups": 3}, "groups must be >= 1 and divide"),
        ({"groups": 2}, "weight must have 2 channels, got 4"),
        ({"stride": (0, 1)}, "stride must be >= 1, got 0"),
        ({"before": (0, -1)}, "padding must be >= 0, got -1"),
        ({"dilation": (3, 1)}, "weight must not reach beyond the padded x"),
    ):
        with pytest.raises(mc.Error, match=text):
            convolve(**changed)


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model._quant.named_children() if hasattr(layer, "kind")}


def _loops(layer: Any, x: torch.Tensor) -> np.ndarray:
    """What the layer's folded integers give, by the reference loops."""
    folded, source = layer.folded(), layer._source[0]
    scale = folded.scale if folded.sign is None else folded.scale * folded.sign
    bias = None if folded.bias is None else folded.bias.numpy()
    operands = (
        x.numpy(), source.scale.item(), source.zero_point.item(),
        folded.weight.numpy(), scale.numpy(), bias,
    )  # fmt: skip
    if layer.kind == "linear":
        return reference.linear(*operands)
    kernel = folded.weight.shape[2:]
    options = layer.options
    pads: Any = options["padding"]
    if pads == "same":
        pads = [d * (k - 1) for d, k in zip(options["dilation"], kernel, strict=True)]
        before, after = [p // 2 for p in pads], [p - p // 2 for p in pads]
    else:
        before = after = list(pads)

    def pair(values: Any, one: int) -> list[int]:
        return [one, *values] if len(kernel) == 1 else list(values)

    return reference.convolution(
        *operands, pair(options["stride"], 1), pair(before, 0), pair(after, 0),
        pair(options["dilation"], 1), options["groups"],
    )  # fmt: skip


@pytest.mark.parametrize("scales", ["measured", "learned"])
@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_equals_the_loops_bit_for_bit(name: str, scales: str) -> None:
    torch.manual_seed(0)
    model, shape = networks()[name]
    example = torch.randn(4, *shape)
    qmodel = mct.prepare_qat(model, example, mode="integer", scales=scales)
    losses = trained(qmodel, shape, 6)
    assert losses[-1] < losses[0]
    checked = []

    def compare(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        with torch.no_grad():
            expected = layer._activate(torch.from_numpy(_loops(layer, inputs[0])))
        # An in-place quantizer behind it comes later.
        assert torch.equal(output, expected)
        checked.append(layer)

    layers = _layers(qmodel)
    for layer in layers.values():
        layer.register_forward_hook(compare)
    with torch.no_grad():
        qmodel.eval()(torch.randn(3, *shape))
    assert len(checked) == len(layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_differs_from_simulate_by_rounding_only(name: str) -> None:
    torch.manual_seed(0)
    model, shape = networks()[name]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    example = torch.randn(8, *shape)
    x = torch.randn(1, *shape).expand(8, *shape) + 0.1 * torch.randn(8, *shape)
    both = [mct.prepare_qat(model, example, mode=mode) for mode in ("simulate", "integer")]
    layers = [_layers(each) for each in both]
    seen: list[dict[str, Any]] = [{}, {}]
    for which, each in enumerate(layers):
        for key, layer in each.items():
            layer.register_forward_hook(
                lambda _, inputs, y, which=which, key=key: seen[which].update(
                    {key: (inputs[0].detach().clone(), y.detach().clone())}
                )
            )
    for each in both:
        torch.manual_seed(1)
        each.train()(x)
    for key, simulated in layers[0].items():
        layer = layers[1][key]
        before, y = seen[1][key]
        with torch.no_grad():
            simulated.train()
            twin = simulated(before)
        bias = layer.bias
        step = 0.0
        if bias is not None and layer._norm[0] is None:
            # The simulation keeps its bias in float; ranges are the same as nothing was learned.
            source, scale = layer._source[0].scale, layer._scale(layer.weight)
            step = float((source * scale).max())
        # Sums of at most 576 products in float32, of unit variance before a norm.
        torch.testing.assert_close(y, twin, rtol=1e-3, atol=1e-3 + step)


def _pair_of_layers(**options: Any) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    layer: nn.Module = nn.Linear(6, 4) if not options else nn.Conv2d(4, 6, 3, **options)
    shape = (5, 6) if not options else (3, 4, 9, 8)
    return layer, torch.randn(*shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 2},
        {"padding": "same", "dilation": 2, "bias": False},
    ],
)
def test_gradients_are_those_of_the_simulation(options: dict[str, Any]) -> None:
    layer, example = _pair_of_layers(**options)
    gradients = []
    for mode in ("simulate", "integer"):
        qmodel = mct.prepare_qat(nn.Sequential(layer), example, mode=mode).train()
        # Values beyond the first range are clipped, and get no gradient.
        x = (2 * example).requires_grad_()
        quantizer = next(each for each in qmodel._quant.values() if not hasattr(each, "kind"))
        quantizer.eval()
        y = qmodel(x)
        torch.manual_seed(3)
        y.backward(torch.randn(y.shape))
        assert x.grad is not None
        assert bool((x.grad == 0).any())
        gradients.append([x.grad, *(p.grad for p in qmodel.parameters())])
    for one, two in zip(*gradients, strict=True):
        # The same products; a matrix product of another shape may sum in another order.
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_even_kernels_with_same_padding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 5, 4, padding="same"), nn.ReLU(), nn.Conv1d(5, 2, 2))
    x = torch.randn(2, 3, 11)
    simulated, exact = (mct.prepare_qat(model, x, mode=m).eval() for m in ("simulate", "integer"))
    assert all(row.after["forward"] == "integer" for row in exact.coverage)
    torch.testing.assert_close(exact(x), simulated(x), rtol=1e-5, atol=1e-5)


def test_state_deepcopy_pickle_and_strip() -> None:
    torch.manual_seed(0)
    model, shape = networks()["residual"]
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape), mode="integer")
    trained(qmodel, shape, 3)
    x = torch.randn(3, *shape)
    buffer = io.BytesIO()
    torch.save(qmodel, buffer)
    buffer.seek(0)
    loaded = mct.prepare_qat(model, torch.zeros(2, *shape), mode="integer")
    loaded.load_state_dict(qmodel.state_dict())
    deployed = mct.prepare_qat(model, torch.zeros(2, *shape), mode="integer")
    deployed.load_state_dict(qmodel.deployed_state())
    simulated = mct.prepare_qat(model, torch.zeros(2, *shape))
    simulated.load_state_dict(qmodel.state_dict())  # one format for both modes
    others = [copy.deepcopy(qmodel), torch.load(buffer, weights_only=False), loaded, deployed]
    with torch.no_grad():
        expected = qmodel.eval()(x)
        for other in others:
            assert torch.equal(other.eval()(x), expected)
    plain = mct.strip(qmodel)
    assert type(plain) is type(model)
    state = qmodel.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_same_bits_but_for_single_levels(name: str, tmp_path: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, shape = networks()[name]
    qmodel = mct.prepare_qat(model, torch.randn(16, *shape), mode="integer")
    trained(qmodel, shape, 10)
    path = tmp_path / "model.onnx"
    example = torch.randn(1, *shape)
    mct.export_onnx(qmodel.eval(), example, path)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    x = torch.randn(64, *shape)
    with torch.no_grad():
        ours = qmodel(x).numpy()
    feed = session.get_inputs()[0].name
    theirs = session.run(None, {feed: x.numpy()})[0]
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    # Its integer kernels have these very sums. What they requantize in one multiplication, we
    # multiply and divide: a value of an inner tensor may land one level away, in few samples.
    assert (ours == theirs).all(1).mean() >= 0.9
    assert np.abs(ours - theirs).max() <= 0.05 * np.abs(ours).max()


def test_masks_and_codebooks_compose() -> None:
    torch.manual_seed(0)
    model, shape = networks()["cnn"]
    mct.Pruner(model, moptcore.prune.ConstantSparsity(0.6, 1, frequency=1)).step()
    zeros = {n: p == 0 for n, p in model.named_parameters() if p.dim() > 1}
    clusterer = mct.Clusterer(model, 8)
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape), mode="integer")
    trained(qmodel, shape, 3)
    with torch.no_grad():
        qmodel.eval()(torch.randn(4, *shape))
    for layer in _layers(qmodel).values():
        assert 2 < len(layer.folded().weight.unique()) <= 8
    assert clusterer.coverage
    state = dict(qmodel.named_parameters())
    assert all(bool((state[n][zero] == 0).all()) for n, zero in zeros.items())


def test_coverage_says_what_is_simulated_and_strict_refuses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(54, 4)
    )
    x = torch.randn(2, 1, 5, 5, 5)
    qmodel = mct.prepare_qat(model, x, mode="integer")
    rows = {row.name: row for row in qmodel.coverage}
    assert all(row.done for row in rows.values())
    assert rows["0.weight"].after == {"dtype": "int8", "forward": "simulate"}
    assert rows["0.weight"].reason == "Conv3d has no integer kernel"
    assert "dropout" in rows["4.weight"].reason
    qmodel.train()(x).sum().backward()
    with pytest.raises(
        mc.core.CoverageError, match=r"(?s)strict=True .*Conv3d has no integer kernel"
    ):
        mct.prepare_qat(model, x, mode="integer", strict=True)
    plain = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0), nn.Linear(3, 2))
    done = mct.prepare_qat(plain, torch.randn(2, 4), mode="integer", strict=True).coverage
    assert {row.after["forward"] for row in done} == {"integer"}
    wide = nn.Sequential(nn.Linear(4, 3)).double()
    found = mct.prepare_qat(wide, torch.randn(2, 4).double(), mode="integer")
    assert found.coverage[0].reason == "integer kernels take float32, got float64"
    found.train()(torch.randn(2, 4).double()).sum().backward()


def test_nan_is_seen_and_not_rounded() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    qmodel = mct.prepare_qat(model, torch.randn(2, 4), mode="integer").train()
    x = torch.randn(2, 4)
    x[1, 2] = float("nan")
    y = qmodel(x)
    assert bool(y[1].isnan().all())
    assert bool(y[0].isfinite().all())


def test_operator_passes_opcheck() -> None:
    torch.manual_seed(0)
    for requires_grad in (False, True):
        x = torch.randn(2, 4, 6, 5, requires_grad=requires_grad)
        weight = torch.randint(-127, 128, (6, 2, 3, 3)).to(torch.int8)
        scale, steps = torch.rand(6) + 0.01, torch.randint(-50, 50, (6,), dtype=torch.int32)
        grid = (torch.tensor(0.02), torch.tensor(120, dtype=torch.int32))
        floats = (weight * scale.reshape(-1, 1, 1, 1)).requires_grad_(requires_grad)
        bias = (steps * scale * 0.02).requires_grad_(requires_grad)
        torch.library.opcheck(
            torch.ops.moptcore.integer_layer.default,
            (x, floats, bias, *grid, weight, scale, steps, [1, 2], [1, 0], [1, 1], 2),
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_whole_prepared_module_trains_compiled_as_it_does_eagerly() -> None:
    torch.manual_seed(0)
    model, shape = networks()["cnn"]
    eager = mct.prepare_qat(model, torch.randn(4, *shape), mode="integer")
    other = copy.deepcopy(eager)
    x, y = torch.randn(8, *shape), torch.randint(0, 10, (8,))
    F.cross_entropy(eager(x), y).backward()
    F.cross_entropy(torch.compile(other, fullgraph=True, backend="aot_eager")(x), y).backward()
    # The same kernels in the same order; ranges go through float32 where eager uses doubles.
    for one, two in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_trains_under_autocast() -> None:
    torch.manual_seed(0)
    qmodel = mct.prepare_qat(Residual(), torch.randn(2, 1, 16, 16), mode="integer")
    x, y = torch.randn(8, 1, 16, 16), torch.randint(0, 10, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(qmodel(x), y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in qmodel.parameters())
