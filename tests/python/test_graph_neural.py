# SPDX-License-Identifier: Apache-2.0
"""The neural operators of the graph against PyTorch, on random settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from moptcore import graph
from onnx import TensorProto, helper

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS = 12


def run(
    op: str,
    *inputs: np.ndarray[Any, Any] | None,
    outputs: int = 1,
    version: int = 22,
    **attributes: Any,
) -> list[np.ndarray[Any, Any]]:
    """The outputs of a model of one node; inputs that are None are left out."""
    given = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(
        op, ["" if x is None else f"x{i}" for i, x in enumerate(inputs)], names, **attributes
    )
    made = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in given.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", version)])
    results = graph.load(model.SerializeToString()).evaluate(given)
    return [np.asarray(results[name]) for name in names]


def close(ours: np.ndarray[Any, Any], theirs: torch.Tensor, terms: int) -> None:
    """Sums of `terms` products of numbers around 1, rounded to 2^-24 each, in another order."""
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=terms * 2.0**-22)


def randn(generator: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return generator.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_conv_is_that_of_torch(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rank = int(generator.integers(1, 4))
    groups, inner, outer = (int(n) for n in generator.integers(1, 7, 3))
    kernel, stride, dilation, pad = (
        generator.integers(low, high, rank).tolist()
        for low, high in ((1, 4), (1, 4), (1, 3), (0, 3))
    )
    extent = [
        int(generator.integers(d * (k - 1) + 1, 12)) for k, d in zip(kernel, dilation, strict=True)
    ]
    x = randn(generator, 2, groups * inner, *extent)
    w = randn(generator, groups * outer, inner, *kernel)
    b = randn(generator, groups * outer)
    attributes = {
        "strides": stride,
        "dilations": dilation,
        "pads": pad + pad,
        "group": groups,
    }
    convolve = [nnf.conv1d, nnf.conv2d, nnf.conv3d][rank - 1]
    theirs = convolve(
        *(torch.from_numpy(t) for t in (x, w, b)),
        stride=stride,
        padding=pad,
        dilation=dilation,
        groups=groups,
    )
    close(run("Conv", x, w, b, **attributes)[0], theirs, inner * int(np.prod(kernel)))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_conv_transpose_is_that_of_torch(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rank = int(generator.integers(1, 4))
    groups, inner, outer = (int(n) for n in generator.integers(1, 7, 3))
    kernel = generator.integers(1, 4, rank).tolist()
    stride = generator.integers(1, 4, rank).tolist()
    dilation = generator.integers(1, 3, rank).tolist()
    pad = [
        int(generator.integers(0, d * (k - 1) + 1)) for k, d in zip(kernel, dilation, strict=True)
    ]
    more = [int(generator.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
    # Large enough that the pads leave something.
    x = randn(generator, 2, groups * inner, *generator.integers(5, 9, rank))
    w = randn(generator, groups * inner, outer, *kernel)
    b = randn(generator, groups * outer)
    transpose = [nnf.conv_transpose1d, nnf.conv_transpose2d, nnf.conv_transpose3d][rank - 1]
    theirs = transpose(
        *(torch.from_numpy(t) for t in (x, w, b)),
        stride=stride,
        padding=pad,
        output_padding=more,
        groups=groups,
        dilation=dilation,
    )
    ours = run(
        "ConvTranspose",
        x,
        w,
        b,
        strides=stride,
        dilations=dilation,
        pads=pad + pad,
        output_padding=more,
        group=groups,
    )
    close(ours[0], theirs, inner * int(np.prod(kernel)))


def gates(weights: torch.Tensor, order: list[int]) -> np.ndarray[Any, Any]:
    """Rows of torch's gates in ONNX's order."""
    parts = weights.detach().chunk(len(order))
    return torch.cat([parts[i] for i in order]).numpy()


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_networks_are_those_of_torch(kind: str, both: bool, layout: int) -> None:
    torch.manual_seed(len(kind) + 2 * both)
    steps, batch, size, hidden = 6, 11, 5, 7
    network = getattr(torch.nn, kind)(size, hidden, bidirectional=both)
    # Ours i o f c and z r h; theirs i f g o and r z n.
    order = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}[kind]
    ends = ["", "_reverse"] if both else [""]

    def stacked(name: str) -> np.ndarray[Any, Any]:
        return np.stack([gates(getattr(network, f"{name}_l0{end}"), order) for end in ends])

    w, r = stacked("weight_ih"), stacked("weight_hh")
    b = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    lengths = np.array([6, 1, 3, 5, 6, 2, 4, 6, 1, 2, 3], np.int32)
    x = torch.randn(steps, batch, size)
    h = torch.randn(len(ends), batch, hidden)
    c = torch.randn(len(ends), batch, hidden)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.from_numpy(lengths.astype(np.int64)), enforce_sorted=False
    )
    theirs, last = network(packed, (h, c) if kind == "LSTM" else h)
    theirs, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs, total_length=steps)
    theirs = theirs.reshape(steps, batch, len(ends), hidden)
    states = list(last) if kind == "LSTM" else [last]
    given: list[np.ndarray[Any, Any] | None] = [x.numpy(), w, r, b, lengths, h.numpy()]
    if kind == "LSTM":
        given.append(c.numpy())
    if layout == 1:
        given = [
            t.swapaxes(0, 1).copy() if i in (0, 5, 6) and t is not None else t
            for i, t in enumerate(given)
        ]
    attributes: dict[str, Any] = {"hidden_size": hidden, "layout": layout}
    if both:
        attributes["direction"] = "bidirectional"
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    ours = run(kind, *given, outputs=1 + len(states), **attributes)
    wanted = theirs.transpose(0, 1) if layout == 1 else theirs.transpose(1, 2)
    close(ours[0], wanted, size + hidden)
    for mine, state in zip(ours[1:], states, strict=True):
        close(mine, state.transpose(0, 1) if layout == 1 else state, size + hidden)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_layer_and_group_normalization_are_those_of_torch(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = generator.integers(2, 6, int(generator.integers(2, 5))).tolist()
    axis = int(generator.integers(1, len(shape)))
    x = randn(generator, *shape)
    scale, bias = randn(generator, *shape[axis:]), randn(generator, *shape[axis:])
    y, mean, factor = run("LayerNormalization", x, scale, bias, outputs=3, axis=axis, epsilon=1e-3)
    tensors = [torch.from_numpy(t) for t in (x, scale, bias)]
    close(y, nnf.layer_norm(tensors[0], shape[axis:], *tensors[1:], eps=1e-3), 20)
    over = tuple(range(axis, len(shape)))
    close(mean, tensors[0].mean(over, keepdim=True), 1)
    variance = tensors[0].var(over, correction=0, keepdim=True)
    close(factor, (variance + 1e-3).rsqrt(), 20)
    images = randn(generator, 2, 6, 4, 3)
    scale, bias = randn(generator, 6), randn(generator, 6)
    ours = run("GroupNormalization", images, scale, bias, num_groups=3)[0]
    tensors = [torch.from_numpy(t) for t in (images, scale, bias)]
    close(ours, nnf.group_norm(tensors[0], 3, *tensors[1:]), 20)
    ours = run("InstanceNormalization", images, scale, bias)[0]
    close(ours, nnf.instance_norm(tensors[0], weight=tensors[1], bias=tensors[2]), 20)


def test_batch_normalization_is_that_of_torch_in_both_modes() -> None:
    generator = np.random.default_rng(0)
    x, scale, bias, mean = (randn(generator, *s) for s in ((4, 5, 3, 2), (5,), (5,), (5,)))
    variance = np.abs(randn(generator, 5)) + 0.1
    tensors = [torch.from_numpy(t) for t in (x, mean.copy(), variance.copy(), scale, bias)]
    ours = run("BatchNormalization", x, scale, bias, mean, variance)[0]
    close(ours, nnf.batch_norm(*tensors), 20)
    trained = run(
        "BatchNormalization",
        x,
        scale,
        bias,
        mean,
        variance,
        outputs=3,
        training_mode=1,
        momentum=0.75,
    )
    close(trained[0], nnf.batch_norm(*tensors, training=True, momentum=0.25), 20)
    close(trained[1], tensors[1], 1)
    # torch keeps the variance of a sample, ONNX that of the population.
    now = torch.from_numpy(x).transpose(0, 1).reshape(5, -1).var(1, correction=0)
    close(trained[2], 0.75 * torch.from_numpy(variance) + 0.25 * now, 1)


@pytest.mark.parametrize(
    ("mode", "align"),
    [("nearest", False)] + [(m, a) for m in ("bilinear", "bicubic") for a in (False, True)],
)
@pytest.mark.parametrize("size", [(3, 4), (5, 7), (11, 5), (13, 16)])
def test_resize_is_interpolate_of_torch(size: tuple[int, int], mode: str, align: bool) -> None:
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    smooth: dict[str, Any] = {"align_corners": align} if mode != "nearest" else {}
    theirs = nnf.interpolate(x, size, mode=mode, **smooth)
    coordinates = "align_corners" if align else "pytorch_half_pixel"
    attributes: dict[str, Any] = {
        "mode": {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    }
    if mode == "nearest":
        attributes |= {"nearest_mode": "floor"}
        coordinates = "asymmetric"
    sizes = np.array([2, 3, *size], np.int64)
    ours = run(
        "Resize",
        x.numpy(),
        None,
        None,
        sizes,
        version=19,
        coordinate_transformation_mode=coordinates,
        **attributes,
    )[0]
    # torch computes the places in float: 2^-24 of 16 elements, times slopes of about 4.
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(2, 3), (4, 5), (3, 9)])
def test_resize_with_antialias_is_that_of_torch(size: tuple[int, int], mode: str) -> None:
    x = torch.randn(1, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    theirs = nnf.interpolate(x, size, mode=mode, antialias=True)
    ours = run(
        "Resize",
        x.numpy(),
        None,
        None,
        np.array(size, np.int64),
        version=19,
        axes=[2, 3],
        antialias=1,
        # torch has another cubic here, and leaves elements outside out.
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        mode={"bilinear": "linear", "bicubic": "cubic"}[mode],
    )[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_grid_sample_is_that_of_torch(mode: str, padding: str, align: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 7, generator=generator)
    # ONNX moves places outside to the border before it takes the taps of a cubic, torch each tap.
    reach = 0.98 if mode == "bicubic" and padding != "zeros" else 2.5
    grid = (torch.rand(2, 9, 8, 2, generator=generator) * 2 - 1) * reach
    theirs = nnf.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=align)
    attributes: dict[str, Any] = {"padding_mode": padding, "align_corners": int(align)}
    names = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}
    ours = run("GridSample", x.numpy(), grid.numpy(), mode=names[mode], **attributes)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5)
    if mode == "bicubic":
        return
    x = torch.randn(1, 2, 4, 5, 6, generator=generator)
    grid = torch.rand(1, 3, 4, 5, 3, generator=generator) * 3 - 1.5
    theirs = nnf.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=align)
    ours = run("GridSample", x.numpy(), grid.numpy(), mode=names[mode], **attributes)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_affine_grid_is_that_of_torch(size: tuple[int, ...], align: bool) -> None:
    axes = len(size) - 2
    theta = torch.randn(2, axes, axes + 1, generator=torch.Generator().manual_seed(0))
    theirs = nnf.affine_grid(theta, list(size), align_corners=align)
    ours = run("AffineGrid", theta.numpy(), np.array(size, np.int64), align_corners=int(align))[0]
    close(ours, theirs, 4)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("heads", [2, 6])
def test_attention_is_that_of_torch(heads: int, causal: int) -> None:
    generator = torch.Generator().manual_seed(heads)
    q = torch.randn(2, 6, 70, 8, generator=generator)
    k = torch.randn(2, heads, 70, 8, generator=generator)
    v = torch.randn(2, heads, 70, 5, generator=generator)
    theirs = nnf.scaled_dot_product_attention(q, k, v, is_causal=bool(causal), enable_gqa=True)
    ours = run("Attention", q.numpy(), k.numpy(), v.numpy(), version=23, is_causal=causal)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)

    def packed(t: torch.Tensor) -> np.ndarray[Any, Any]:
        return t.transpose(1, 2).flatten(2).numpy()

    flat = run(
        "Attention",
        packed(q),
        packed(k),
        packed(v),
        version=23,
        is_causal=causal,
        q_num_heads=6,
        kv_num_heads=heads,
    )[0]
    np.testing.assert_allclose(flat, packed(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 60, 97])
def test_dft_is_that_of_numpy(length: int) -> None:
    generator = np.random.default_rng(length)
    x = randn(generator, 3, length, 2)
    signal = x[..., 0] + 1j * x[..., 1]
    ours = run("DFT", x, version=20)[0]
    wanted = np.fft.fft(signal, axis=1)
    np.testing.assert_allclose(ours[..., 0] + 1j * ours[..., 1], wanted, rtol=1e-5, atol=1e-5)
    back = run("DFT", ours, version=20, inverse=1)[0]
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
    half = run("DFT", x[..., :1].copy(), version=20, onesided=1)[0]
    wanted = np.fft.rfft(x[..., 0], axis=1)
    np.testing.assert_allclose(half[..., 0] + 1j * half[..., 1], wanted, rtol=1e-5, atol=1e-5)
    again = run("DFT", half, np.array(length, np.int64), version=20, onesided=1, inverse=1)[0]
    np.testing.assert_allclose(again, x[..., :1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero", [-7, 0, 30])
def test_quantize_linear_agrees_with_the_primitives(zero: int) -> None:
    from moptcore import quant

    generator = np.random.default_rng(zero + 9)
    x = np.concatenate(
        [
            randn(generator, 1000) * 3,
            np.arange(-300, 300, dtype=np.float32) * 0.0125,  # ties of the scale below
            np.array([np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0], np.float32),
        ]
    ).astype(np.float32)
    scale = np.array(0.025, np.float32)
    params = quant.QParams(float(scale), zero, dtype="int8")
    finite = np.isfinite(x)
    ours = run("QuantizeLinear", x, scale, np.array(zero, np.int8), version=21)[0]
    np.testing.assert_array_equal(ours[finite], quant.quantize(x[finite], params))
    back = run("DequantizeLinear", ours, scale, np.array(zero, np.int8), version=21)[0]
    np.testing.assert_array_equal(back, quant.dequantize(ours, params))
