# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Weights in few bytes, losslessly, in standard safetensors files.
"""

from __future__ import annotations
import typing

ArrayLike = typing.Any
import typing_extensions

__all__: list[str] = [
    "decode",
    "describe",
    "encode",
    "entropy_bound",
    "load",
    "read_metadata",
    "save",
]

def _contents(path: typing.Any) -> tuple[typing.Any, ...]:
    """
    What inspect makes its report of.
    """

def decode(
    data: typing_extensions.Buffer, out: typing.Any = None, *, framework: str = "numpy"
) -> typing.Any:
    """
    The array that encode encoded, as a NumPy array, a PyTorch tensor (framework="torch")
    or in out. Raises FormatError for bytes that encode does not make.
    """

def describe(data: typing_extensions.Buffer) -> dict[str, typing.Any]:
    """
    What the bytes of encode hold: dtype, shape, encoding, dense_bytes, packed_bytes and
    streams, each with name, coder, bits of a symbol, symbols, offset and size in bytes.
    """

def encode(array: ArrayLike, encoding: str = "auto") -> bytes:
    """
    The array in few bytes, from which decode makes the same bits again.

    encoding is "auto" (the smallest) or names joined by +: of a layout (dense, bitmap,
    csr, nm, or n:m such as 2:4), of values (raw, codebook, grid, int2, int3, int4, int8)
    and of a coder (plain, zstd, rans; the best where none is named). Raises Error where
    the array does not fit; where it fits but would grow, it is stored dense and raw.
    """

def entropy_bound(array: ArrayLike) -> float:
    """
    Bytes that no order-0 code of the elements goes below, its table included: with K
    distinct elements of w bytes and the entropy H of one in bits, n H / 8 + K w, or the
    dense size if that is less. Codes that see more than single elements may.
    """

def load(path: typing.Any, *, framework: str = "numpy") -> dict[str, typing.Any]:
    """
    The arrays of a safetensors file, packed or plain, by name; the same bits that were
    saved. NumPy arrays (bfloat16 of ml_dtypes), or with framework="torch" tensors.
    Raises FormatError for anything else, UnsupportedError for 8-bit and 4-bit floats.
    """

def read_metadata(path: typing.Any) -> dict[str, typing.Any]:
    """
    The metadata that save was given.
    """

def save(
    path: typing.Any, arrays: typing.Any, encoding: typing.Any = "auto", metadata: typing.Any = None
) -> int:
    """
    Writes a mapping of names to arrays as a safetensors file; returns its bytes.

    encoding is one for all (see encode) or a dict for some by name, the others "auto".
    metadata is a dict of str. Arrays that do not shrink stay as they are under their name;
    the file is never larger than the plain safetensors file of the same arrays and
    metadata. It replaces path at once. Raises Error, OSError.
    """
