# SPDX-License-Identifier: Apache-2.0
"""Packing, the slow and obvious way: sizes in bits, plain safetensors files, the coder's maths."""

from __future__ import annotations

import json
import struct

import numpy as np

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


def entropy_bytes(array: np.ndarray) -> float:
    """n H / 8, with the entropy H of the elements' bits."""
    words = array.reshape(-1).view(f"u{array.itemsize}")
    counts = np.unique(words, return_counts=True)[1]
    return float(np.sum(counts * np.log2(words.size / counts)) / 8) if words.size else 0.0


def entropy_bound(array: np.ndarray) -> float:
    distinct = np.unique(array.reshape(-1).view(f"u{array.itemsize}")).size
    return min(entropy_bytes(array) + distinct * array.itemsize, float(array.nbytes))


def safetensors_bytes(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> int:
    """Size of the plain safetensors file: compact JSON, padded to 8, then the elements."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name in sorted(arrays, key=lambda n: (-arrays[n].itemsize, n)):
        array = arrays[name]
        header[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + at


def safetensors_file(header: object, data: bytes, length: int | None = None) -> bytes:
    """A file with any header: an object to be dumped, or the bytes of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def rans_decode(coded: bytes, count: int) -> bytes:
    """Streams of the coder rans, as the header encoding.hpp describes them."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = coded[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    lanes, first, last = 1 << coded[0], coded[1], coded[2]
    bits = int.from_bytes(coded[3:], "little")
    used = 0
    frequencies = [0] * 256
    for symbol in range(first, last + 1):
        length = bits >> used & 15
        used += 4
        if length:
            low = bits >> used & ((1 << (length - 1)) - 1)
            used += length - 1
            frequencies[symbol] = 1 << (length - 1) | low
    assert sum(frequencies) == 4096
    symbols = [s for s in range(256) for _ in range(frequencies[s])]
    starts = np.concatenate([[0], np.cumsum(frequencies)]).tolist()
    at = 3 + -(-used // 8)
    out = bytearray()
    while len(out) < count:
        size, at = varint(at)
        block, at = coded[at : at + size], at + size
        states = list(struct.unpack_from(f"<{lanes}I", block))
        next_word = 4 * lanes
        for i in range(min(1 << 18, count - len(out))):
            x = states[i % lanes]
            slot = x % 4096
            symbol = symbols[slot]
            x = frequencies[symbol] * (x // 4096) + slot - starts[symbol]
            if x < 65536:
                x = x << 16 | struct.unpack_from("<H", block, next_word)[0]
                next_word += 2
            states[i % lanes] = x
            out.append(symbol)
        assert next_word == size
        assert all(x == 65536 for x in states)
    assert at == len(coded)
    return bytes(out)
