# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
from typing import Any

import moptcore
import moptcore.quant
import moptcore.torch as mct
import pytest
import torch
from moptcore.torch import fake_quantize
from moptcore.torch.fake_quant import _composite, _cpu
from python.torch_networks import Residual, networks, trained
from torch import nn
from torch.nn import functional as F  # noqa: N812

NETWORKS = sorted(networks())


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss_and_leaves_the_original_alone(name: str) -> None:
    torch.manual_seed(0)
    model, shape = networks()[name]
    before = copy.deepcopy(model.state_dict())
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape))
    losses = trained(qmodel, shape, 12)
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [n for n, _ in qmodel.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert {k for k in qmodel.state_dict() if not k.startswith("_quant.")} == set(before)
    assert all(row.done for row in qmodel.coverage)


@pytest.mark.parametrize("name", NETWORKS)
def test_strip_gives_the_class_back_with_the_trained_weights(name: str) -> None:
    torch.manual_seed(0)
    model, shape = networks()[name]
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape))
    trained(qmodel, shape, 3)
    plain = mct.strip(qmodel)
    assert type(plain) is type(model)
    state = qmodel.state_dict()
    assert set(plain.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    # The stripped copy trains on its own.
    trained(plain, shape, 1)
    assert all(torch.equal(value, state[key]) for key, value in qmodel.state_dict().items())


@pytest.mark.parametrize("name", ["cnn", "residual", "separable"])
def test_deepcopy_pickle_and_state_dict_reproduce_the_module(name: str) -> None:
    torch.manual_seed(0)
    model, shape = networks()[name]
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape))
    trained(qmodel, shape, 2)
    x = torch.randn(3, *shape)
    buffer = io.BytesIO()
    torch.save(qmodel, buffer)
    buffer.seek(0)
    loaded = mct.prepare_qat(model, torch.zeros(2, *shape))
    loaded.load_state_dict(qmodel.state_dict())
    others = [copy.deepcopy(qmodel), torch.load(buffer, weights_only=False), loaded]
    expected = qmodel.eval()(x)
    for other in others:
        assert torch.equal(other.eval()(x), expected)
    trained(others[0], shape, 1)
    assert torch.equal(qmodel.eval()(x), expected)


def test_the_original_state_loads() -> None:
    torch.manual_seed(0)
    model, qmodel = Residual(), mct.prepare_qat(Residual(), torch.randn(2, 1, 16, 16))
    assert not any(qmodel.load_state_dict(model.state_dict()))
    assert torch.equal(qmodel.one.conv1.weight, model.one.conv1.weight)


def test_zeros_stay_zero_and_ranges_freeze_in_eval() -> None:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.one.conv1.weight *= torch.rand_like(model.one.conv1.weight) > 0.8
    zeros = model.one.conv1.weight == 0
    qmodel = mct.prepare_qat(model, torch.randn(2, 1, 16, 16)).eval()
    layers = {layer._weight[0]: layer for layer in qmodel._quant.values() if hasattr(layer, "kind")}
    assert (layers[qmodel.one.conv1].folded().weight[zeros] == 0).all()
    before = copy.deepcopy(qmodel.state_dict())
    qmodel(10 * torch.randn(2, 1, 16, 16))
    assert all(torch.equal(value, before[key]) for key, value in qmodel.state_dict().items())


def test_folding_equals_batch_norm_on_fake_quantized_weights() -> None:
    # Per-channel scales commute with BatchNorm's factor: the folded integers are those of the
    # raw weights, negated where gamma is negative.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    norm = model[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0, -0.1, 3.0]))
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(4, 3, 8, 8)
    qmodel = mct.prepare_qat(model, x).eval()
    layer = next(each for each in qmodel._quant.values() if hasattr(each, "kind"))
    weight = model[0].weight.detach()
    scale = layer._scale(weight)
    q = torch.round(weight / scale.reshape(-1, 1, 1, 1))
    folded = layer.folded()
    sign = torch.sign(norm.weight.detach()).reshape(-1, 1, 1, 1)
    assert torch.equal(folded.weight.float(), q * sign + 0.0)
    source = layer._source[0]
    rounded = fake_quantize(x, source.scale, source.zero_point, 0, 255)
    with torch.no_grad():
        expected = model[1].eval()(F.conv2d(rounded, q * scale.reshape(-1, 1, 1, 1), model[0].bias))
        got = layer(rounded)
    # A bias is rounded to the step s_x * s_w (here below 1e-4); sums of 27 products: 1e-5.
    assert folded.bias_scale.max() < 1e-3
    assert (got - expected).abs().max() <= folded.bias_scale.max() / 2 + 1e-4


def test_coverage_says_why_a_weight_stays_float_and_strict_refuses() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.fc = nn.Linear(4, 3)
            self.spare = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.table(x).mean(1))

    example = torch.randint(0, 7, (2, 5))
    rows = {row.name: row for row in mct.prepare_qat(Text(), example).coverage}
    assert set(rows) == {"table.weight", "fc.weight", "spare.weight"}
    assert rows["fc.weight"].done
    assert "Embedding" in rows["table.weight"].reason
    assert "does not call it" in rows["spare.weight"].reason
    with pytest.raises(moptcore.core.CoverageError, match="table"):
        mct.prepare_qat(Text(), example, strict=True)
    chosen = mct.prepare_qat(Text(), example, include="fc", strict=True).coverage
    assert [row.name for row in chosen if row.done] == ["fc.weight"]
    with pytest.warns(UserWarning, match=r"nothing becomes int8 .*fc.weight: excluded by Linear"):
        left = mct.prepare_qat(Text(), example, exclude=[nn.Linear]).coverage
    assert not any(row.done for row in left)
    with pytest.raises(ValueError, match="nearest names"):
        mct.prepare_qat(Text(), example, include="fd")


def test_bad_arguments_are_named() -> None:
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(2, 4)
    with pytest.raises(moptcore.UnsupportedError, match=r"scheme must be one of \('int8',\), got"):
        mct.prepare_qat(model, x, scheme="int5")
    with pytest.raises(moptcore.UnsupportedError, match=r"mode must be one of .*, got 'real'"):
        mct.prepare_qat(model, x, mode="real")
    with pytest.raises(TypeError, match="example must be a tensor or a tuple of tensors, got list"):
        mct.prepare_qat(model, [[1.0, 2.0]])
    with pytest.raises(moptcore.Error, match=r"example must fit the model, got \[\(2, 5\)\]"):
        mct.prepare_qat(model, torch.randn(2, 5))
    with pytest.raises(moptcore.Error, match="example must not be empty"):
        mct.prepare_qat(model, torch.randn(0, 4))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        mct.prepare_qat(lambda x: x, x)
    with pytest.raises(moptcore.Error, match="must not be prepared already"):
        mct.prepare_qat(mct.prepare_qat(model, x), x)


def test_control_flow_on_data_is_refused_with_its_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(moptcore.UnsupportedError, match=r"test_torch_qat\.py:\d+: if x\.sum\(\)"):
        mct.prepare_qat(Branching(), torch.randn(2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_composite_has_the_bits_of_the_core(dtype: torch.dtype, axis: int | None) -> None:
    torch.manual_seed(0)
    x = (4 * torch.randn(5, 3, 6)).to(dtype)
    x[0, 0] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 0.375])
    count = 1 if axis is None else x.shape[axis]
    scale = torch.full((count,), 0.25) / torch.arange(1, count + 1)
    zero_point = torch.arange(count, dtype=torch.int32) - 1
    y, bits = _cpu(x, scale, zero_point, -8, 7, axis)
    y2, bits2 = _composite(x, scale, zero_point, -8, 7, axis)
    assert torch.equal(y.nan_to_num(99.0), y2.nan_to_num(99.0))
    assert torch.equal(torch.signbit(y[~y.isnan()]), torch.signbit(y2[~y2.isnan()]))
    assert torch.equal(bits, bits2)


def test_gradient_passes_inside_the_range_only() -> None:
    x = torch.tensor([-3.0, -2.2, -0.1, 0.4, 1.7, 1.8, 9.0], requires_grad=True)
    scale, zero_point = torch.tensor(0.5), torch.tensor(0, dtype=torch.int32)
    # [-4, 3] times 0.5: -2.2 rounds to -4 and 1.7 to 3, inside; 1.8 rounds to 4, outside.
    y = fake_quantize(x, scale, zero_point, -4, 3)
    torch.testing.assert_close(y, torch.tensor([-2.0, -2.0, 0.0, 0.5, 1.5, 1.5, 1.5]))
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0]


@pytest.mark.parametrize("axis", [None, 1])
def test_operator_passes_opcheck(axis: int | None) -> None:
    count = 1 if axis is None else 3
    scale, zero_point = torch.full((count,), 0.1), torch.zeros(count, dtype=torch.int32)
    for requires_grad in (False, True):
        x = torch.randn(4, 3, requires_grad=requires_grad)
        torch.library.opcheck(
            torch.ops.moptcore.fake_quantize.default, (x, scale, zero_point, -128, 127, axis)
        )
    bits = torch.randint(0, 256, (2,), dtype=torch.uint8)
    torch.library.opcheck(
        torch.ops.moptcore.fake_quantize_backward.default,
        (torch.randn(4, 3, requires_grad=True), bits),
    )


def test_compiles_as_one_graph() -> None:
    scale, zero_point = torch.tensor([0.1]), torch.tensor([3], dtype=torch.int32)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(x, scale, zero_point, 0, 255) ** 2).sum()

    x = torch.randn(50, requires_grad=True)
    loss(x).backward()
    expected, x.grad = x.grad, None
    torch.compile(loss, fullgraph=True, backend="aot_eager")(x).backward()
    assert torch.equal(x.grad, expected)


def test_trains_under_autocast() -> None:
    torch.manual_seed(0)
    qmodel = mct.prepare_qat(Residual(), torch.randn(2, 1, 16, 16))
    x, y = torch.randn(8, 1, 16, 16), torch.randint(0, 10, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(qmodel(x), y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in qmodel.parameters())


def _step(qmodel: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    for _ in range(2):  # two forward passes before one step: gradient accumulation
        x, y = torch.randn(8, 1, 16, 16), torch.randint(0, 10, (8,))
        F.cross_entropy(qmodel(x), y).backward()
    optimizer.step()


def test_pruned_weights_stay_zero_without_a_pruner() -> None:
    torch.manual_seed(0)
    model = Residual()
    mct.Pruner(model, moptcore.prune.ConstantSparsity(0.7, 1, frequency=1)).step()
    zeros = {name: p == 0 for name, p in model.named_parameters() if p.dim() > 1}
    assert all(bool(mask.any()) for mask in zeros.values())
    qmodel = mct.prepare_qat(model, torch.randn(2, 1, 16, 16))
    optimizer = torch.optim.AdamW(qmodel.parameters(), 1e-2)
    for _ in range(3):
        _step(qmodel, optimizer)
    moved = copy.deepcopy(qmodel)
    state = qmodel.state_dict()
    stripped = mct.strip(moved)
    for name, mask in zeros.items():
        assert (state[name][mask] == 0).all(), name
        assert (state[name][~mask] != 0).any(), name
        assert (stripped.get_parameter(name)[mask] == 0).all(), name


def test_zeros_come_back_with_the_state_and_dense_layers_stay_free() -> None:
    torch.manual_seed(0)
    model = Residual()
    mct.Pruner(model, moptcore.prune.ConstantSparsity(0.5, 1, frequency=1)).step()
    example = torch.randn(2, 1, 16, 16)
    trained = mct.prepare_qat(model, example)
    resumed = mct.prepare_qat(Residual(), example)
    resumed.load_state_dict(trained.state_dict())
    _step(resumed, torch.optim.SGD(resumed.parameters(), 0.1))
    for name, value in trained.state_dict().items():
        if value.dim() > 1 and name in dict(model.named_parameters()):
            assert (resumed.state_dict()[name][value == 0] == 0).all(), name
    empty = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(empty[0].weight)
    fresh = mct.prepare_qat(empty, torch.randn(2, 4))
    optimizer = torch.optim.SGD(fresh.parameters(), 0.1)
    fresh.get_parameter("0.weight").grad = torch.ones(3, 4)
    optimizer.step()
    assert (mct.strip(fresh)[0].weight != 0).all()


def test_keeps_what_a_pruner_asks_for() -> None:
    torch.manual_seed(0)
    qmodel = mct.prepare_qat(Residual(), torch.randn(2, 1, 16, 16))
    schedule = moptcore.prune.ConstantSparsity(0.5, begin_step=1, frequency=1)
    pruner = mct.Pruner(qmodel, schedule)
    optimizer = torch.optim.SGD(qmodel.parameters(), 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(qmodel(torch.randn(8, 1, 16, 16)), torch.randint(0, 10, (8,))).backward()
        optimizer.step()
        pruner.step()
    weight = mct.strip(qmodel).two.conv2.weight
    assert int((weight == 0).sum()) == round(0.5 * weight.numel())


def test_a_whole_prepared_module_trains_compiled_as_it_does_eagerly() -> None:
    torch.manual_seed(0)
    model, shape = networks()["cnn"]
    eager = mct.prepare_qat(model, torch.randn(4, *shape))
    other = copy.deepcopy(eager)
    x, y = torch.randn(8, *shape), torch.randint(0, 10, (8,))
    F.cross_entropy(eager(x), y).backward()
    F.cross_entropy(torch.compile(other, fullgraph=True, backend="aot_eager")(x), y).backward()
    # The same kernels in the same order; ranges go through float32 where eager uses doubles.
    for one, two in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_range_is_the_debiased_mean_of_the_batches() -> None:
    quantizer = mct.qat.ActivationQuantizer(torch.device("cpu"))
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 4.0]), torch.tensor([0.5, 9.0])]
    quantizer(torch.tensor([float("nan"), 1e9]))
    for batch in batches:
        quantizer(batch)
    weights = torch.tensor([0.99**2, 0.99, 1.0], dtype=torch.float64)
    weights /= weights.sum()
    low = float((weights * torch.tensor([-1.0, -3.0, 0.5])).sum())
    high = float((weights * torch.tensor([2.0, 4.0, 9.0])).sum())
    # Each of three updates rounds to float32 once.
    assert quantizer.low.item() == pytest.approx(low, rel=4e-7)
    assert quantizer.high.item() == pytest.approx(high, rel=4e-7)
    assert quantizer.scale.item() == pytest.approx((high - low) / 255, rel=4e-7)
    assert quantizer.zero_point.item() == round(-low / ((high - low) / 255))
    other = mct.qat.ActivationQuantizer(torch.device("cpu"))
    with torch.no_grad():
        other._observe_tensors(torch.tensor(float("nan")), torch.tensor(1e9), True)
        for batch in batches:
            other._observe_tensors(*torch.aminmax(batch), True)
    for name, value in quantizer.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_relu_is_left_to_the_rounding_behind_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU6(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight.mul_(8)
    qmodel = mct.prepare_qat(model, torch.randn(4, 2, 5, 5))
    quantizer = qmodel._quant["_1_int8"]
    seen: list[torch.Tensor] = []
    quantizer.register_forward_hook(lambda module, given, result: seen.append(result))
    x = 4 * torch.randn(4, 2, 5, 5)
    qmodel(x)
    assert seen[0].min() == 0
    assert seen[0].max() <= 6.0001
    assert quantizer.zero_point == 0


def test_fake_quantize_is_a_function_of_the_package_also_after_prepare_qat() -> None:
    mct.prepare_qat(nn.Linear(4, 3), torch.randn(2, 4))
    x = torch.tensor([[-3.0, 0.2], [0.6, 90.0]], requires_grad=True)
    qp = moptcore.quant.QParams([0.5, 0.25], axis=1)
    y = mct.fake_quantize(x, qp.scale, qp.zero_point, qp.qmin, qp.qmax, qp.axis)
    # int8: round(90 / 0.25) = 360 saturates at 127, which is 31.75, and passes no gradient.
    assert y.tolist() == [[-3.0, 0.25], [0.5, 31.75]]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert torch.equal(mct.fake_quantize(x, 0.5), mct.fake_quantize(x, torch.tensor([0.5])))
    by_last = mct.fake_quantize(x, torch.tensor([0.5, 0.25]), 0, axis=-1)
    assert torch.equal(by_last, y)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((torch.zeros(2, 3).long(), 1.0), "x must have a floating dtype, got torch.int64"),
        ((1.0, 1.0), "x must be a Tensor, got float"),
        ((torch.zeros(2, 3), torch.ones(2)), r"scale must hold one number, got shape \(2,\)"),
        ((torch.zeros(2, 3), torch.ones(2), 0, -8, 7, 1), "scale must hold 1 or 3 numbers"),
        ((torch.zeros(2, 3), 1.0, 0.5), "zero_point must hold integers, got torch.float32"),
        ((torch.zeros(2, 3), 1.0, 0, -8, 7, 2), r"axis must be in \[-2, 2\), got 2"),
        ((torch.zeros(2, 3), -1.0), "scale must be"),
        ((torch.zeros(2, 3), 1.0, 0, 7, -8), "qmin"),
    ],
)
def test_fake_quantize_names_a_bad_argument(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(moptcore.Error, match=text):
        mct.fake_quantize(*arguments)


def test_compiled_and_parallel_models_are_unwrapped() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    expected = mct.prepare_qat(model, x).eval()(x)
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        qmodel = mct.prepare_qat(wrapped, x)
        assert [n for n, _ in qmodel.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert type(mct.strip(qmodel)) is nn.Sequential
        assert torch.equal(qmodel.eval()(x), expected)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("training", [True, False])
def test_zeros_are_exact_in_the_parameters_right_after_a_step(
    optimizer: str, training: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5)
    )
    for layer in (model[0], model[4]):
        layer.weight.data *= torch.rand_like(layer.weight) > 0.7
    zeros = [model[index].weight == 0 for index in (0, 4)]
    qmodel = copy.deepcopy(mct.prepare_qat(model, torch.randn(2, 1, 8, 8))).train(training)
    named = dict(qmodel.named_parameters())
    before = [named[name].detach().clone() for name in ("0.weight", "4.weight")]
    step = OPTIMIZERS[optimizer](qmodel.parameters())
    for _ in range(3):
        step.zero_grad()
        qmodel(torch.randn(4, 1, 8, 8)).square().sum().backward()
        step.step()
        for name, pruned in zip(("0.weight", "4.weight"), zeros, strict=True):
            assert (named[name][pruned] == 0).all()
    for name, old, pruned in zip(("0.weight", "4.weight"), before, zeros, strict=True):
        assert (named[name][~pruned] != old[~pruned]).float().mean() > 0.5


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.attention(x, x, x)[0])
        return y


def test_coverage_says_what_export_cannot_write() -> None:
    rows = mct.prepare_qat(_Recurrent(), torch.randn(3, 2, 4)).coverage
    reasons = {row.name: row.reason for row in rows}
    assert reasons.pop("head.weight") == ""
    assert set(reasons) == {"attention.in_proj_weight", "attention.out_proj.weight"}
    for reason in reasons.values():
        assert reason.startswith("left in float: MultiheadAttention is not a Linear")
        assert reason.endswith("export_onnx cannot write it yet")


def test_a_model_that_stays_in_float_is_a_warning() -> None:
    text = r"nothing becomes int8 \(0.weight: left in float: ConvTranspose1d is not a Linear.*\)"
    with pytest.warns(UserWarning, match=text):
        mct.prepare_qat(nn.Sequential(nn.ConvTranspose1d(2, 2, 3)), torch.randn(1, 2, 5))
    with pytest.warns(UserWarning, match=r"int8 \(no parameter has 2 or more dimensions\)"):
        mct.prepare_qat(nn.Sequential(nn.ReLU()), torch.randn(1, 2))


def test_a_module_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(moptcore.UnsupportedError, match=r"at the model itself \(LSTM\)"):
        mct.prepare_qat(nn.LSTM(4, 3), torch.randn(2, 2, 4))

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Branch()))
    with pytest.raises(moptcore.UnsupportedError, match=r"at 1\.1 \(Branch\), .*test_torch_qat"):
        mct.prepare_qat(model, torch.randn(2, 4))
    with pytest.raises(
        moptcore.Error, match=r"0\.bias: it has 1 dimension; only parameters with 2"
    ):
        mct.prepare_qat(model, torch.randn(2, 4), include="0.bias")
