# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kmeans1d
import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import safetensors.torch
import torch
from moptcore import pack
from reference import pack as reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
DTYPES += [torch.int16, torch.int8, torch.uint8, torch.bool]


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 9),
    )


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[torch.rand_like(model[3].weight) < 0.8] = 0.0
    path = tmp_path / "model.safetensors"
    assert mct.save_packed(model, path) == path.stat().st_size
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(model.state_dict(), plain, {"format": "pt"})
    assert path.stat().st_size < plain.stat().st_size
    state = mct.load_packed(path)
    assert state.keys() == model.state_dict().keys()
    assert all(same(state[name], value) for name, value in model.state_dict().items())
    other = network()
    other.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})
    mct.load_packed(path, other)
    assert all(same(other.state_dict()[name], value) for name, value in state.items())
    assert pack.read_metadata(path) == {"format": "pt"}
    loaded = mct.load_packed(plain)
    assert all(same(loaded[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_any_strides(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(40, 60) * 3).to(dtype)
    path = tmp_path / "x.safetensors"
    state = {"a": tensor, "b": tensor.T, "c": tensor[::3, 1::2], "d": tensor[:0], "e": tensor[0, 0]}
    mct.save_packed(state, path)
    loaded = mct.load_packed(path)
    assert all(same(loaded[name], value) for name, value in state.items())


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(50, 40), "out": torch.nn.Linear(40, 50)}
    )
    model["out"].weight = model["embed"].weight
    path = tmp_path / "tied.safetensors"
    mct.save_packed(model, path)
    assert {row.name for row in pack.inspect(path).tensors} == {"embed.weight", "out.bias"}
    state = mct.load_packed(path)
    assert state["out.weight"] is state["embed.weight"]
    assert same(state["out.weight"], model["embed"].weight.detach())
    assert list(model.load_state_dict(state)) == [[], []]
    pack.save(path, {"a": torch.ones(2)}, metadata={"moptcore.tied": '{"b":"c"}'})
    with pytest.raises(moptcore.FormatError, match="must name a tensor for each"):
        mct.load_packed(path)
    pack.save(path, {"a": torch.ones(2)}, metadata={"moptcore.tied": "[" * 99999})
    with pytest.raises(moptcore.FormatError, match="must be JSON"):
        mct.load_packed(path)


def classifier(values: str) -> torch.nn.Module:
    """The student of the example, 80 % of its weights zero, 15 other values in each tensor. It has
    206,922 parameters where its norms are folded, and 48 more here."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "conv1": torch.nn.Conv2d(1, 16, 3, bias=False),
            "norm1": torch.nn.BatchNorm2d(16),
            "conv2": torch.nn.Conv2d(16, 32, 3, bias=False),
            "norm2": torch.nn.BatchNorm2d(32),
            "linear": torch.nn.Linear(32 * 7 * 7, 128),
            "head": torch.nn.Linear(128, 10),
        }
    )
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    for weight in (p for p in model.parameters() if p.dim() > 1):
        flat = torch.randn(weight.numel()) * 0.05
        kept = flat.abs().topk(round(0.2 * flat.numel())).indices
        if values == "uniform":
            centroids = [i / 40 for i in range(-7, 9) if i != 0]
            indices = torch.randint(0, 15, kept.shape).tolist()
        else:
            indices, centroids = kmeans1d.cluster(flat[kept].tolist(), 15)
        flat.zero_()[kept] = torch.tensor(centroids)[torch.tensor(indices)]
        weight.data.copy_(flat.reshape(weight.shape))
    return model


@pytest.mark.parametrize("values", ["optimal", "uniform"])
def test_pruned_clustered_weights_take_a_twentieth(values: str, tmp_path: Path) -> None:
    """The bound of a weight: mask entropy and 0.2 times that of its index, together the entropy of
    the 16 values (chain rule). 15 indices that are all as likely take log2(15) = 3.91 bits, optimal
    centroids of a normal distribution's tails fewer. The floats are dense."""
    model = classifier(values)
    state = model.state_dict()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 206_922 + 48
    path = tmp_path / "small.safetensors"
    size = mct.save_packed(model, path)
    bound = sum(reference.entropy_bound(tensor.numpy()) for tensor in state.values())
    weights = [tensor.flatten() for tensor in state.values() if tensor.dim() > 1]
    per_index = [np.unique(w[w != 0].numpy(), return_counts=True)[1] for w in weights]
    index_bits = sum(float(np.sum(c * np.log2(c.sum() / c))) for c in per_index)
    index_bits /= sum(int(c.sum()) for c in per_index)
    assert index_bits == pytest.approx(3.9, abs=0.02) if values == "uniform" else index_bits < 3.8
    assert size <= 4 * 206_922 / 20
    assert size <= 1.03 * bound
    loaded = mct.load_packed(path)
    assert all(same(loaded[name], value) for name, value in state.items())


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(32)
        self.deep = torch.nn.Conv2d(32, 64, 3)
        self.fc = torch.nn.Linear(64 * 16, 96)
        self.head = torch.nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.deep(x))
        return self.head(torch.relu(self.fc(x.flatten(1))))


def trained(scales: str = "measured", sparse: bool = False, clusters: int = 0) -> torch.nn.Module:
    torch.manual_seed(0)
    model, x = Small(), torch.randn(4, 3, 8, 8)
    if sparse:
        with torch.no_grad():
            model.fc.weight[torch.rand_like(model.fc.weight) < 0.8] = 0.0
    held = mct.Clusterer(model, clusters) if clusters else None
    model = mct.prepare_qat(model, x, scales=scales)
    del held
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with torch.no_grad():
        model.norm.weight[::3] = -0.7  # folds as a negative factor
    for _ in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"scales": "learned"}, {"sparse": True}, {"clusters": 16}, {"clusters": 16, "sparse": 1}],
    ids=str,
)
def test_an_int8_model_is_stored_as_its_integers(options: dict[str, Any], tmp_path: Path) -> None:
    """A byte a weight is 4 times fewer; an entropy coder needs no more, and 7 % of that remain for
    1,000 floats. 16 values take 4 bits; with 80 % zeros fc takes 1.5 (see above) and is 83 %."""
    model = trained(**options)
    path = tmp_path / "int8.safetensors"
    size = mct.save_packed(model, path)
    parameters = sum(p.numel() for p in model.parameters())
    assert size <= 4 * parameters / 3.6
    few = 32 / 4 if "clusters" in options else 3.6
    assert size <= 4 * parameters / (12 if few > 4 and "sparse" in options else few) + 4000
    x = torch.randn(5, 3, 8, 8)
    wanted = model(x)
    fresh = mct.prepare_qat(Small(), x, scales=options.get("scales", "measured"))
    for other in (fresh, copy.deepcopy(model)):
        state = mct.load_packed(path, other)
        other.eval()
        assert same(other(x), wanted)
        for name in ("conv", "deep", "fc", "head"):
            layers = [m._quant.get_submodule(layer) for m, layer in layers_of(model, other, name)]
            assert torch.equal(*(integers(layer.folded()) for layer in layers))
        again = tmp_path / "again.safetensors"
        mct.save_packed(other, again)
        assert all(same(mct.load_packed(again)[key], value) for key, value in state.items())
        other.train()(x).sum().backward()
        assert not any(key.endswith("deployed") for key in other.state_dict())
    if "sparse" in options:
        zero = fresh.fc.weight == 0
        torch.optim.SGD(fresh.parameters(), 0.1).step()
        fresh.restore_zeros()
        assert torch.equal(fresh.fc.weight == 0, zero)


def integers(folded: Any) -> torch.Tensor:
    """Without a codebook a negative factor of a norm is folded into them, else it stays a sign."""
    sign = torch.ones_like(folded.scale) if folded.sign is None else folded.sign
    return folded.weight * sign.reshape(-1, *[1] * (folded.weight.dim() - 1))


def layers_of(a: torch.nn.Module, b: torch.nn.Module, name: str) -> list[Any]:
    found = []
    for model in (a, b):
        weight = model.get_parameter(f"{name}.weight")
        keys = [k for k, m in model._quant.named_children() if getattr(m, "weight", None) is weight]
        found.append((model, keys[0]))
    return found


def test_latent_weights_come_back_for_training_on(tmp_path: Path) -> None:
    model = trained(sparse=True)
    path = tmp_path / "latent.safetensors"
    mct.save_packed(model, path, what="latent")
    state = mct.load_packed(path)
    assert state.keys() == model.state_dict().keys()
    assert all(same(state[name], value) for name, value in model.state_dict().items())
    nested = torch.nn.ModuleDict({"inner": model})
    mct.save_packed(nested, path)
    wanted = {f"inner.{key}": value for key, value in model.deployed_state().items()}
    loaded = mct.load_packed(path)
    assert loaded.keys() == wanted.keys()
    assert all(same(loaded[name], value) for name, value in wanted.items())
    with pytest.raises(moptcore.Error, match="what must be one of"):
        mct.save_packed(model, path, what="int8")


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(moptcore.DTypeError, match="got int of 'step'"):
        mct.save_packed({"step": 3}, path)
    with pytest.raises(moptcore.DTypeError, match="must be a Module or a state dict"):
        mct.save_packed(3, path)
    with pytest.raises(moptcore.DTypeError, match=r"torch.sparse_coo.*'s'"):
        mct.save_packed({"s": torch.eye(3).to_sparse()}, path)
    with pytest.raises(moptcore.Error, match="must leave the key"):
        mct.save_packed({}, path, metadata={"moptcore.tied": "{}"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_a_dtype_without_a_form_is_named_with_its_tensor(tmp_path, dtype):
    state = {"fc.weight": torch.zeros(3, dtype=dtype)}
    with pytest.raises(moptcore.DTypeError, match=rf"got {dtype} of 'fc.weight'"):
        mct.save_packed(state, tmp_path / "x.safetensors")


def test_names_and_models_that_are_none_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for name in ("\ud800", 3):
        with pytest.raises(moptcore.Error, match="names must be texts"):
            mct.save_packed({name: torch.zeros(3)}, path)
    assert not path.exists()
    mct.save_packed({"a": torch.zeros(3)}, path)
    with pytest.raises(moptcore.DTypeError, match="model must be a Module or None, got int"):
        mct.load_packed(path, 3)
