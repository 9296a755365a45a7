# SPDX-License-Identifier: Apache-2.0
"""The arrays of tests/golden/pack_v1.safetensors, which every later version must still open.

The file was written by the moptcore whose format was version 1; run again, this writes the
version of the moptcore that runs it. The arrays come from integers alone, so that they are the
same everywhere.

    python scripts/golden/pack.py FILE
"""

from __future__ import annotations

import sys

import numpy as np

ENCODINGS = {
    "rans.1": "dense+raw+rans",
    "rans.2": "dense+raw+rans",
    "rans.4": "dense+raw+rans",
    "rans.8": "dense+raw+rans",
    "zstd": "dense+raw+zstd",
    "fill": "dense+codebook",
    "raw": "dense+raw",
    "bitmap": "bitmap+raw",
    "bitmap.codebook": "bitmap+codebook+rans",
    "csr.codebook": "csr+codebook+rans",
    "csr.int8": "csr+int8+plain",
    "2:4": "2:4+int4+plain",
    "3:16": "3:16+raw",
    "negative.zeros": "bitmap+codebook+plain",
    "bfloat16.bits": "dense+raw",
}


def numbers(count: int, seed: int) -> np.ndarray:
    """Multiplicative hashing: 32 bits a number."""
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(32)


def bytes_of(count: int, seed: int) -> np.ndarray:
    """Skewed towards small ones."""
    x = numbers(count, seed)
    return np.minimum((x & np.uint64(31)) * (x >> np.uint64(5) & np.uint64(3)), 40).astype(np.uint8)


def rare(count: int, seed: int) -> np.ndarray:
    """Fifteen of sixteen are 0."""
    x = numbers(count, seed)
    return np.where(x % np.uint64(16) == 0, x >> np.uint64(8) & np.uint64(7), 0).astype(np.uint8)


def weights(shape: tuple[int, ...], seed: int, zeros: int, levels: int = 15) -> np.ndarray:
    """scale * q with about `zeros` of 16 elements 0."""
    x = numbers(int(np.prod(shape)), seed)
    q = (x % np.uint64(levels)).astype(np.int64) - levels // 2
    kept = (x >> np.uint64(20)) % np.uint64(16) >= np.uint64(zeros)
    return (np.float32(0.0371) * np.where(kept, q, 0).astype(np.float32)).reshape(shape)


def arrays() -> dict[str, np.ndarray]:
    floats = numbers(600, 3).astype(np.uint32).view(np.float32).reshape(20, 30)
    groups = weights((32, 64), 7, 0, 7).reshape(-1, 4)
    groups[:, 1:3] = 0
    wide = floats.reshape(-1)[:512].reshape(-1, 16).copy()
    wide[:, 3:] = 0
    signed = weights((24, 40), 9, 10)
    signed[signed == 0] *= np.float32(-1)
    return {
        "rans.1": bytes_of(4000, 1),
        "rans.2": bytes_of(5000, 2),
        "rans.4": rare(33000, 3),
        "rans.8": rare(300_000, 4),
        "zstd": np.tile(bytes_of(97, 5), 50),
        "fill": np.full((40, 50), -2.5, np.float64),
        "raw": floats,
        "bitmap": np.where(weights((20, 30), 8, 12) != 0, floats, np.float32(0)),
        "bitmap.codebook": weights((64, 96), 5, 12),
        "csr.codebook": weights((64, 96), 6, 14),
        "csr.int8": weights((30, 33), 2, 12, 201),
        "2:4": groups.reshape(32, 64),
        "3:16": wide,
        "negative.zeros": signed,
        "bfloat16.bits": numbers(100, 4).astype(np.uint16),
    }


if __name__ == "__main__":
    from moptcore import pack

    print(pack.save(sys.argv[1], arrays(), encoding=ENCODINGS, metadata={"of": "version 1"}))
