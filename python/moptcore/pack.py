# SPDX-License-Identifier: Apache-2.0
"""Weights in few bytes, losslessly, in standard safetensors files.

    pack.save("model.safetensors", {"fc.weight": w})
    arrays = pack.load("model.safetensors")
    print(pack.inspect("model.safetensors"))

Any safetensors reader opens the files; arrays that stayed as they were it reads as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from moptcore._core.pack import (
    _contents,
    decode,
    describe,
    encode,
    entropy_bound,
    load,
    read_metadata,
    save,
)

__all__ = [
    "Contents",
    "Packed",
    "decode",
    "describe",
    "encode",
    "entropy_bound",
    "inspect",
    "load",
    "read_metadata",
    "save",
]


@dataclass(frozen=True)
class Packed:
    """A tensor of a file: how it is stored, and its bytes before and after.

    `entropy_bytes` is `entropy_bound` of it; `streams` are those of `describe`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    dense_bytes: int
    packed_bytes: int
    entropy_bytes: float
    streams: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a file holds. `file_bytes` is its real size, header and all."""

    tensors: tuple[Packed, ...]
    file_bytes: int
    metadata: dict[str, str]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the elements as they were, without any header."""
        return sum(tensor.dense_bytes for tensor in self.tensors)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the tensors in the file, without its header."""
        return sum(tensor.packed_bytes for tensor in self.tensors)

    @property
    def entropy_bytes(self) -> float:
        """The sum of the tensors' order-0 bounds."""
        return sum(tensor.entropy_bytes for tensor in self.tensors)

    def __str__(self) -> str:
        rows = [("tensor", "shape", "dtype", "encoding", "dense", "packed", "order 0")]
        rows += [
            (
                tensor.name,
                "x".join(map(str, tensor.shape)) or "scalar",
                tensor.dtype,
                tensor.encoding,
                f"{tensor.dense_bytes:,}",
                f"{tensor.packed_bytes:,}",
                f"{tensor.entropy_bytes:,.0f}",
            )
            for tensor in self.tensors
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                text.rjust(width) if column > 3 else text.ljust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        ratio = self.dense_bytes / self.file_bytes
        lines.append(
            f"{len(self.tensors)} tensors, {self.dense_bytes:,} bytes dense; "
            f"the file has {self.file_bytes:,}, {ratio:.2f} times fewer"
        )
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str]) -> Contents:
    """The tensors of a safetensors file and what they take in it, after checking all of it.

    Raises FormatError, OSError.
    """
    rows, file_bytes, metadata = _contents(path)
    tensors = tuple(Packed(**{**row, "streams": tuple(row["streams"])}) for row in rows)
    return Contents(tensors, file_bytes, metadata)
