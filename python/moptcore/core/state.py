# SPDX-License-Identifier: Apache-2.0
"""States as plain dicts of arrays, with a format number, a fingerprint and a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moptcore._core import FormatError

__all__ = ["FORMAT", "State", "fingerprint_of", "seal", "unseal"]

State = dict[str, npt.NDArray[Any]]

FORMAT = 1
"""The format that `seal` writes; `unseal` reads 1 to FORMAT."""

_FORMAT_KEY, _FINGERPRINT_KEY, _SHA256_KEY = "__format__", "__fingerprint__", "__sha256__"
_SEALS = (_FORMAT_KEY, _FINGERPRINT_KEY, _SHA256_KEY)


def fingerprint_of(parts: Iterable[tuple[str, Iterable[int], str]]) -> str:
    """A hexadecimal digest of (name, shape, dtype) triples: the same model gives the same."""
    digest = hashlib.sha256()
    for name, shape, dtype in parts:
        digest.update(_header(name, dtype, tuple(shape)))
    return digest.hexdigest()


def seal(state: Mapping[str, npt.ArrayLike], fingerprint: str) -> State:
    """A copy of `state` with `__format__` (int64), `__fingerprint__` and `__sha256__` (uint8).

    The checksum covers every other entry in the order of their keys: name, dtype, shape, bytes.
    """
    sealed: State = {
        key: np.array(value) for key, value in _arrays(state).items() if key not in _SEALS
    }
    sealed[_FORMAT_KEY] = np.array(FORMAT, dtype=np.int64)
    sealed[_FINGERPRINT_KEY] = np.frombuffer(fingerprint.encode(), dtype=np.uint8).copy()
    sealed[_SHA256_KEY] = _checksum(sealed)
    return sealed


def unseal(
    state: Mapping[str, npt.ArrayLike],
    fingerprint: str,
    strict: bool = True,
    required: Iterable[str] = (),
) -> State:
    """The entries of a sealed state without the seals.

    Raises FormatError naming the key for a missing seal, a format that is newer than this
    version, a checksum that differs, and, with `strict`, the fingerprint of another model. Where
    the checksum differs and keys of `required` are absent, they are named.
    """
    arrays = _arrays(state)
    for key in _SEALS:
        if key not in arrays:
            raise FormatError(f"[core.unseal] state must hold {key}, got {sorted(arrays)[:5]}")
    version = arrays[_FORMAT_KEY]
    number = int(version.item()) if version.size == 1 and version.dtype.kind in "iu" else 0
    if not 1 <= number <= FORMAT:
        raise FormatError(
            f"[core.unseal] {_FORMAT_KEY} must be an integer in 1..{FORMAT}, got {version}"
        )
    found = arrays[_SHA256_KEY]
    if not np.array_equal(found, _checksum(arrays)):
        absent = [key for key in required if key not in arrays]
        if absent:
            raise FormatError(
                f"[core.unseal] state must hold {', '.join(absent[:5])}, got none: entries were "
                "taken away"
            )
        raise FormatError(
            f"[core.unseal] {_SHA256_KEY} must be that of the other entries, got "
            f"{found.tobytes().hex()[:16]}...: the state was damaged or changed"
        )
    other = arrays[_FINGERPRINT_KEY].astype(np.uint8).tobytes().decode(errors="replace")
    if strict and other != fingerprint:
        raise FormatError(
            f"[core.unseal] {_FINGERPRINT_KEY} must be {fingerprint[:16]}..., got {other[:16]}...: "
            "the state belongs to a model with other names, shapes or dtypes"
        )
    return {key: value for key, value in arrays.items() if key not in _SEALS}


def _arrays(state: Mapping[str, npt.ArrayLike]) -> State:
    arrays = {key: np.asarray(value) for key, value in state.items()}
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise FormatError(f"[core.state] {key} must be an array of numbers, got {array.dtype}")
    return arrays


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        if key == _SHA256_KEY:
            continue
        array = arrays[key]
        # Little-endian bytes, so that the checksum is the same on every machine.
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(_header(key, little.dtype.str, array.shape))
        digest.update(little.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8).copy()


def _header(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    # Lengths first, so that no two different entries give the same bytes.
    fields = (name.encode(), dtype.encode(), repr(tuple(int(size) for size in shape)).encode())
    return b"".join(len(text).to_bytes(8, "little") + text for text in fields)
