# SPDX-License-Identifier: Apache-2.0
"""Masks, codebooks and integers together: what holds alone holds in every order."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.prune import ConstantSparsity, PolynomialDecay
from moptcore.torch.qat import QuantizedLayer
from torch import nn

ONNX = ("onnx", "onnxruntime")


pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 9, 16)
        self.head = nn.Linear(16, 5)
        # Channels that their BatchNorm turns around and one that it all but switches off.
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, -0.25, 1.0, 1e-9, 2.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


WEIGHTS = ("conv.weight", "hidden.weight", "head.weight")
K = 6


def batch(seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    x = torch.randn(16, 1, 8, 8, generator=generator)
    return x, torch.randint(0, 5, (16,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int | None) -> None:
    x, y = batch(seed)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model.train()(x), y).backward()
    optimizer.step()


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    return torch.optim.Adam(model.parameters(), 0.01)


def distinct(tensor: torch.Tensor) -> int:
    return int(tensor.detach().unique().numel())


def integers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.folded().weight
        for layer in model.get_submodule("_quant").children()
        if isinstance(layer, QuantizedLayer)
        for name, parameter in model.named_parameters()
        if parameter is layer.weight
    }


def check(model: nn.Module, done: set[str], sparsity: float = 0.5) -> None:
    """Every promise of what was applied so far."""
    for name in WEIGHTS:
        weight = model.get_parameter(name).detach()
        zeros = int((weight == 0).sum())
        if "prune" in done:
            assert zeros >= round(weight.numel() * sparsity), name
        if "cluster" in done:
            assert distinct(weight) <= K, name
        if "quantize" in done:
            whole = integers(model)[name]
            assert int((whole == 0).sum()) >= zeros, name
            if "cluster" in done:
                assert distinct(whole) <= K, name


@pytest.mark.parametrize("order", list(itertools.permutations(["prune", "cluster", "quantize"])))
@pytest.mark.parametrize("update", ["centroids", "straight_through"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_every_order_keeps_every_promise(order: tuple[str, ...], update: str, kind: str) -> None:
    model: nn.Module = Net()
    parts: list[Any] = []
    done: set[str] = set()
    for technique in order:
        if technique == "prune":
            parts.append(mct.Pruner(model, ConstantSparsity(0.5, 1, end_step=5, frequency=2)))
        elif technique == "cluster":
            parts.append(mct.cluster(model, K, update=update))
        else:
            model = mct.prepare_qat(model, batch(1)[0])
            parts.append(model)
        done.add(technique)
        compression = mct.Compression(*parts)
        optimizer = optimizer_of(kind, model)
        for step in range(4):
            train_step(model, optimizer, step)
            compression.step()
            check(model, done)
    table = moptcore.core.coverage.table(compression.coverage)
    assert [row.technique for row in compression.coverage] == ["prune", "cluster", "quant"] * 3
    assert "NO" not in table
    plain = mct.strip(model)
    assert type(plain) is Net
    check(plain, done - {"quantize"})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_that_are_stepped_one_by_one_keep_the_promises_too(order: tuple[int, ...]) -> None:
    model = Net()
    clusterer = mct.cluster(model, K)
    quantized = mct.prepare_qat(model, batch(1)[0])
    clusterer.follow(quantized)
    pruner = mct.Pruner(quantized, PolynomialDecay(0.0, 0.5, 0, 6, frequency=2))
    steps = [pruner.step, clusterer.step, quantized.restore_zeros]
    optimizer = optimizer_of("sgd", quantized)
    for step in range(1, 9):
        train_step(quantized, optimizer, step)
        for place in order:
            steps[place]()
        check(quantized, {"cluster", "quantize"})
    check(quantized, {"prune", "cluster", "quantize"})


def test_a_quantized_model_keeps_codebooks_without_any_other_part() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1, end_step=1))
    pruner.step()
    clusterer = mct.cluster(model, K)
    quantized = mct.prepare_qat(model, batch(1)[0])
    del pruner, clusterer
    optimizer = optimizer_of("adam", quantized)
    for step in range(4):
        train_step(quantized, optimizer, step)
        quantized.restore_zeros()
        check(quantized, {"prune", "cluster", "quantize"})
    # The state of the module alone carries them to another one.
    other = mct.prepare_qat(Net(), batch(1)[0])
    other.load_state_dict(quantized.state_dict())
    train_step(other, optimizer_of("adam", other), 9)
    check(mct.strip(other), {"prune", "cluster"})
    check(other, {"prune", "cluster", "quantize"})
    # A mask made here makes room for zero in them.
    free = Net()
    kept = mct.cluster(free, K)
    quantized = mct.prepare_qat(free, batch(1)[0])
    del kept
    mct.Pruner(quantized, ConstantSparsity(0.5, 1)).step()
    check(quantized, {"prune", "cluster", "quantize"})


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_file_has_as_few_integers_and_computes_what_training_saw(
    axis: int | None, tmp_path: Path
) -> None:
    onnx, ort = (pytest.importorskip(name) for name in ONNX)
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1, end_step=1))
    pruner.step()
    clusterer = mct.cluster(model, K, axis=axis)
    quantized = mct.prepare_qat(model, batch(1)[0])
    compression = mct.Compression(pruner, clusterer, quantized)
    optimizer = optimizer_of("adam", quantized)
    for step in range(6):
        train_step(quantized, optimizer, step)
        compression.step()
    assert bool((quantized.get_parameter("norm.weight") < 0).any())
    quantized.eval()
    x = batch(3)[0]
    path = mct.export_onnx(quantized, x, tmp_path / "model.onnx")
    stored = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load(path).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
    }
    assert len(stored) == 3
    for name, values in stored.items():
        # An axis of 1 is a codebook for each input, but one scale for the whole weight.
        groups = [values] if axis is None else np.moveaxis(values, axis, 0)
        assert all(len(np.unique(group)) <= K for group in groups), name
        assert (values == 0).mean() >= 0.5 - 0.5 / values.size
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    seen = quantized(x).detach().numpy()
    # One step of the hidden layer's grid may round the other way; it reaches the outputs by less
    # than its weights, which are below 1.
    step = max(
        float(each.scale)
        for each in quantized.get_submodule("_quant").children()
        if not isinstance(each, QuantizedLayer)
    )
    assert np.abs(found - seen).max() <= step


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("update", ["centroids", "straight_through"])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6])
def test_resuming_at_any_step_gives_the_same_bits(kind: str, update: str, stop: int) -> None:
    def start() -> tuple[Any, ...]:
        torch.manual_seed(5)
        plain = Net()
        pruner = mct.Pruner(plain, PolynomialDecay(0.0, 0.5, 0, 6, frequency=2))
        clusterer = mct.cluster(plain, K, update=update)
        quantized = mct.prepare_qat(plain, batch(1)[0])
        compression = mct.Compression(clusterer, quantized, pruner)
        return quantized, optimizer_of(kind, quantized), compression

    def go(model: nn.Module, optimizer: Any, compression: Any, steps: range) -> None:
        for _ in steps:
            # Batches come from the generator, as with a loader that shuffles.
            train_step(model, optimizer, None)
            compression.step()

    model, optimizer, compression = start()
    go(model, optimizer, compression, range(stop))
    saved = io.BytesIO()
    entries = {k: torch.from_numpy(v) for k, v in compression.state_dict().items()}
    torch.save([model.state_dict(), optimizer.state_dict(), entries], saved)
    go(model, optimizer, compression, range(stop, 8))

    torch.manual_seed(99)
    other, training, again = start()
    saved.seek(0)
    weights, moments, entries = torch.load(saved, weights_only=True)
    other.load_state_dict(weights)
    training.load_state_dict(moments)
    again.load_state_dict(entries)
    go(other, training, again, range(stop, 8))
    one, two = model.state_dict(), other.state_dict()
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    first, second = compression.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name], equal_nan=True), name


def test_the_random_numbers_continue() -> None:
    compression = mct.Compression(mct.cluster(Net(), 4))
    torch.randn(1), np.random.standard_normal(), random.gauss(0, 1)
    state = compression.state_dict()

    def draw() -> tuple[Any, ...]:
        return torch.randn(3).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1)

    first = draw()
    compression.load_state_dict(state)
    assert draw() == first


def test_two_pruners_have_a_state_each() -> None:
    model = Net()
    parts = [
        mct.Pruner(model, ConstantSparsity(0.5, 1), include="conv"),
        mct.Pruner(model, ConstantSparsity(0.25, 1), include="head"),
    ]
    compression = mct.Compression(*parts)
    compression.step()
    state = compression.state_dict()
    assert {"prune/conv.weight/mask", "prune#2/head.weight/mask"} <= set(state)
    other = Net()
    again = mct.Compression(
        mct.Pruner(other, ConstantSparsity(0.5, 1), include="conv"),
        mct.Pruner(other, ConstantSparsity(0.25, 1), include="head"),
    )
    again.load_state_dict(state)
    again.apply()
    assert int((other.conv.weight == 0).sum()) == 36
    assert int((other.head.weight == 0).sum()) == 20


def test_a_state_of_other_parts_is_named_and_nothing_changes() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    both = mct.Compression(pruner, mct.cluster(model, 4))
    alone = mct.Compression(pruner)
    both.step()
    before = both.state_dict()
    with pytest.raises(moptcore.FormatError, match="other names"):
        both.load_state_dict(alone.state_dict())
    with pytest.raises(moptcore.FormatError, match=r"missing \['cluster'\]"):
        both.load_state_dict(moptcore.core.seal(alone.state_dict(), both._fingerprint()))
    broken = {k: v for k, v in before.items() if k != "cluster/head.weight/indices"}
    with pytest.raises(moptcore.FormatError, match=r"cluster/head.weight/\* must hold"):
        both.load_state_dict(moptcore.core.seal(broken, both._fingerprint()))
    after = both.state_dict()
    assert all(np.array_equal(before[key], after[key], equal_nan=True) for key in before)
    with pytest.raises(TypeError, match="must be a mapping"):
        both.load_state_dict("state")


def test_wrong_parts_are_named() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    with pytest.raises(TypeError, match=r"parts must be a Pruner, a Clusterer or .* got int"):
        mct.Compression(pruner, 3)
    with pytest.raises(TypeError, match="got Net"):
        mct.Compression(model)
    with pytest.raises(ValueError, match="got none"):
        mct.Compression()
    with pytest.raises(ValueError, match="one of them twice"):
        mct.Compression(pruner, pruner)
    x = batch(1)[0]
    with pytest.raises(ValueError, match="one quantized model, got two"):
        mct.Compression(mct.prepare_qat(model, x), mct.prepare_qat(model, x))
    with pytest.raises(moptcore.CoverageError, match="conv"):
        mct.Compression(mct.cluster(model, 4, axis=2), strict=True)


def test_n_of_m_survives_clusters_and_integers() -> None:
    model = Net()
    pruner = mct.Pruner(
        model, ConstantSparsity(0.5, 1, end_step=1), structure=(2, 4), include=["hidden", "head"]
    )
    quantized = mct.prepare_qat(model, batch(1)[0])
    compression = mct.Compression(pruner, mct.cluster(quantized, K), quantized)
    optimizer = optimizer_of("adam", quantized)
    for step in range(4):
        train_step(quantized, optimizer, step)
        compression.step()
        for name in ("hidden.weight", "head.weight"):
            for values in (quantized.get_parameter(name).detach(), integers(quantized)[name]):
                kept = (values != 0).reshape(len(values), -1, 4).sum(2)
                assert bool((kept <= 2).all()), (name, step)
            assert distinct(integers(quantized)[name]) <= K


def test_a_state_without_masks_or_zeros_loads_again(tmp_path: Path) -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, begin_step=3))
    parts = mct.Compression(pruner, mct.Clusterer(model, 4, preserve_zeros=True))
    parts.load_state_dict(parts.state_dict())
    x, _ = batch(0)
    prepared = mct.prepare_qat(model, x)
    prepared.load_state_dict(prepared.state_dict())
    before = {key: value.clone() for key, value in prepared.state_dict().items()}
    mct.save_packed(prepared, tmp_path / "latent.safetensors", what="latent")
    mct.load_packed(tmp_path / "latent.safetensors", prepared)
    for key, value in prepared.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_parts_are_of_one_model() -> None:
    first, other = Net(), Net()
    schedule = ConstantSparsity(0.5, begin_step=1)
    with pytest.raises(moptcore.Error, match=r"parts must be of one model .* got 2 unrelated ones"):
        mct.Compression(mct.Pruner(first, schedule), mct.Clusterer(other, 4))
    mct.Compression(mct.Pruner(first, schedule), mct.Clusterer(first.hidden, 4))
    # The whole joins what has nothing in common by itself.
    parts = [mct.Clusterer(first.hidden, 4), mct.Clusterer(first.head, 4)]
    mct.Compression(*parts, mct.Pruner(first, schedule))
