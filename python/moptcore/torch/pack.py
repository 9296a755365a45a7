# SPDX-License-Identifier: Apache-2.0
"""State dicts in packed safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from moptcore import DTypeError, Error, FormatError, pack
from moptcore.torch.qat import QuantizedModel

__all__ = ["load_packed", "save_packed"]

_TIED = "moptcore.tied"
WHAT = ("deployed", "latent")
_DTYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
}


def save_packed(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    encoding: str | dict[str, str] = "auto",
    metadata: dict[str, str] | None = None,
    what: str = "deployed",
) -> int:
    """Writes a module's parameters and buffers, or a state dict, as a packed file.

    The file is a standard safetensors file (see `moptcore.pack.save`), the tensors are stored bit
    for bit, and tied tensors once. Tensors of any device. Returns the bytes of the file. Pruned
    weights that a mask multiplication made -0.0 stay -0.0, which costs at most a bit for each zero.

    Of what `prepare_qat` gave, what="deployed" stores the weights on their grids, so that they
    take the bytes of their integers, and the scales: loaded into the same kind of model they
    evaluate to the same bits. what="latent" stores the state dict as it is, for training on.

    Raises DTypeError for entries that are no tensors, Error, OSError.
    """
    where = "torch.save_packed"
    if what not in WHAT:
        raise Error(f"[{where}] what must be one of {WHAT}, got {what!r}")
    state = _state_of(model, what) if isinstance(model, torch.nn.Module) else model
    if not isinstance(state, Mapping):
        raise DTypeError(
            f"[{where}] model must be a Module or a state dict, got {type(model).__name__}"
        )
    if metadata is not None and _TIED in metadata:
        raise Error(f"[{where}] metadata must leave the key {_TIED!r} to moptcore")
    arrays: dict[str, torch.Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        if not _is_text(name):
            raise Error(f"[{where}] names must be texts that UTF-8 can hold, got {name!r}")
        if not isinstance(tensor, torch.Tensor):
            raise DTypeError(
                f"[{where}] entries must be tensors, got {type(tensor).__name__} of {name!r}"
            )
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            raise DTypeError(
                f"[{where}] tensors must be strided and have memory, got {tensor.layout} on "
                f"{tensor.device} of {name!r}"
            )
        if tensor.dtype not in _DTYPES:
            raise DTypeError(
                f"[{where}] tensors must be of a plain dtype (float64 to int8, uint8 or bool), got "
                f"{tensor.dtype} of {name!r}"
            )
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and key in first:
            tied[name] = first[key]
            continue
        first[key] = name
        # Lazily conjugated and negated tensors become what they stand for.
        arrays[name] = tensor.detach().resolve_conj().resolve_neg().cpu()
    texts = {"format": "pt", **(metadata or {})}
    if tied:
        texts[_TIED] = json.dumps(tied, separators=(",", ":"))
    return pack.save(path, arrays, encoding, texts)


def load_packed(
    path: str | os.PathLike[str], model: torch.nn.Module | None = None, *, strict: bool = True
) -> dict[str, torch.Tensor]:
    """The state dict of a packed or plain safetensors file, on the CPU; tied tensors are one.

    With a model its parameters and buffers are filled as well, wherever they are;
    `strict` is that of load_state_dict.

    Raises FormatError for other files, OSError, and what load_state_dict raises.
    """
    if model is not None and not isinstance(model, torch.nn.Module):
        raise DTypeError(
            f"[torch.load_packed] model must be a Module or None, got {type(model).__name__}"
        )
    state: dict[str, torch.Tensor] = pack.load(path, framework="torch")
    text = pack.read_metadata(path).get(_TIED)
    for name, origin in _tied(text).items() if text is not None else ():
        if origin not in state or name in state:
            raise FormatError(
                f"[torch.load_packed] metadata {_TIED!r} must name a tensor for each that is "
                f"absent, got {name!r}: {origin!r}"
            )
        state[name] = state[origin]
    if model is not None:
        model.load_state_dict(state, strict=strict)
    return state


def _state_of(model: torch.nn.Module, what: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    if what == "deployed":
        for path, module in model.named_modules():
            if not isinstance(module, QuantizedModel):
                continue
            prefix = f"{path}." if path else ""
            for key in [key for key in state if key.startswith(prefix)]:
                del state[key]
            state |= {prefix + key: value for key, value in module.deployed_state().items()}
    return state


def _is_text(name: Any) -> bool:
    # A half of a surrogate pair is a str all the same.
    return isinstance(name, str) and not any("\ud800" <= each <= "\udfff" for each in name)


def _tied(text: str) -> dict[str, str]:
    try:
        tied = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"[torch.load_packed] metadata {_TIED!r} must be JSON, got {text[:80]!r}"
        ) from error
    if not isinstance(tied, dict) or not all(isinstance(v, str) for v in tied.values()):
        raise FormatError(
            f"[torch.load_packed] metadata {_TIED!r} must map names to names, got {text[:80]!r}"
        )
    return tied
