# SPDX-License-Identifier: Apache-2.0
"""Packing weights: bytes against gzip, Zstandard and the order-0 bound, and the rates both ways."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

import moptcore as mc
import numpy as np
import zstandard
from harness import interleave
from moptcore import pack


def on_grid(weights: np.ndarray, largest: int) -> np.ndarray:
    scale = (np.abs(weights).max(axis=1, keepdims=True) / largest).astype(np.float32)
    return scale * np.rint(weights / scale).astype(np.int8).astype(np.float32)


def cases(rows: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(rows, 1024)).astype(np.float32)
    kept = np.abs(weights) >= np.quantile(np.abs(weights), 0.8)
    centroids = np.linspace(-2.4, 2.4, 15, dtype=np.float32) + np.float32(0.03)
    clustered = centroids[np.abs(weights[..., None] - centroids).argmin(axis=-1)]
    groups = np.abs(weights).reshape(-1, 4)
    two_of_four = np.zeros(groups.shape, bool)
    np.put_along_axis(two_of_four, np.argsort(groups, axis=1)[:, 2:], True, axis=1)
    zero = np.float32(0)
    return {
        "float32, nothing done": weights,
        "80 % zeros": np.where(kept, weights, zero),
        "2:4 zeros": np.where(two_of_four.reshape(weights.shape), weights, zero),
        "16 values": clustered,
        "80 % zeros, 15 other values": np.where(kept, clustered, zero),
        "int8 by rows": on_grid(weights, 127),
        "int4 by rows": on_grid(weights, 7),
        "80 % zeros, int8 by rows": on_grid(np.where(kept, weights, zero), 127),
    }


def rate(way: Callable[[], object], size: int) -> float:
    """MB/s, as of bytes of the elements."""
    return size / 1e3 / interleave({"way": way}, seconds=1.0, max_rounds=5)["way"].median


def main(rows: int) -> None:
    print(f"{rows} x 1024 float32, {mc.get_num_threads()} threads; bytes as a share of the dense")
    print(
        f"  {'':<28} {'gzip -9':>8} {'zstd -19':>8} {'moptcore':>8} {'order 0':>8} "
        f"{'encode':>11} {'decode':>11}"
    )
    for name, tensor in cases(rows).items():
        data = pack.encode(tensor)
        back = pack.decode(data)
        assert back.tobytes() == tensor.tobytes()
        dense = tensor.tobytes()
        sizes = [
            len(zlib.compress(dense, 9)),
            len(zstandard.ZstdCompressor(19).compress(dense)),
            len(data),
            pack.entropy_bound(tensor),
        ]
        shares = " ".join(f"{100 * size / len(dense):7.2f}%" for size in sizes)
        rates = [
            rate(lambda tensor=tensor: pack.encode(tensor), len(dense)),
            rate(lambda data=data, back=back: pack.decode(data, out=back), len(dense)),
        ]
        print(f"  {name:<28} {shares} {rates[0]:6.0f} MB/s {rates[1]:6.0f} MB/s")


if __name__ == "__main__":
    for count in [int(text) for text in sys.argv[1:]] or [512]:
        main(count)
