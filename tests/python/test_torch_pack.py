# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import moptcore
import moptcore.torch as mct
import pytest
import safetensors.torch
import torch
from moptcore import pack

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


def test_pruned_clustered_weights_take_a_twentieth(tmp_path: Path) -> None:
    """The demo's size: 80 % zeros and 15 other values a tensor in 206,922 parameters."""
    torch.manual_seed(0)
    shapes = [
        (8, 1, 3, 3),
        (8,),
        (16, 8, 3, 3),
        (16,),
        (252, 784),
        (252,),
        (28, 252),
        (28,),
        (10, 28),
    ]
    state = {}
    for number, shape in enumerate(shapes):
        tensor = torch.randn(shape) * 0.1
        if tensor.dim() > 1:
            grid = torch.linspace(-0.25, 0.25, 15)  # 3.5 bits a weight that is kept
            tensor = grid[(tensor.unsqueeze(-1) - grid).abs().argmin(-1)]
            tensor[torch.rand(shape) < 0.8] = 0.0
        state[f"layers.{number}.weight"] = tensor
    parameters = sum(tensor.numel() for tensor in state.values())
    path = tmp_path / "small.safetensors"
    assert abs(parameters - 206_922) < 1500
    assert mct.save_packed(state, path) <= 4 * parameters / 20
    assert all(same(mct.load_packed(path)[name], value) for name, value in state.items())


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
