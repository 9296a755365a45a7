# SPDX-License-Identifier: Apache-2.0
"""Packing weights: bytes against gzip, Zstandard and the order-0 bound, and the rates both ways."""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

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
        "the same, w * mask": on_grid(weights, 127) * kept,
    }


def rate(way: Callable[[], object], size: int) -> float:
    """MB/s, as of bytes of the elements."""
    return size / 1e3 / interleave({"way": way}, seconds=1.0, max_rounds=5)["way"].median


def resnet_18(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The shapes of ResNet-18's parameters and buffers, 11.7 M, with random normal weights: 80 %
    zeros and 32 other values in every weight of two dimensions and more."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    norm("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{name}.downsample.1", width)
            before = width
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    arrays = {}
    for name, shape in shapes.items():
        weights = draw.normal(scale=0.05, size=shape).astype(np.float32)
        arrays[name] = clustered(weights) if len(shape) > 1 else weights
    return arrays


def clustered(weights: np.ndarray, zeros: float = 0.8, clusters: int = 32) -> np.ndarray:
    """The weights of least magnitude 0, the others the nearest of equally spaced values."""
    limit = np.quantile(np.abs(weights), zeros)
    kept = np.abs(weights) > limit
    half = np.linspace(limit, np.abs(weights).max(), clusters // 2, dtype=np.float32)
    values = np.concatenate([-half[::-1], half])
    nearest = values[np.searchsorted((values[1:] + values[:-1]) / 2, weights)]
    return np.where(kept, nearest, np.float32(0))


def mask_and_index_bytes(weights: np.ndarray) -> float:
    """Order-0 entropy of the mask and of what it keeps."""

    def entropy(counts: np.ndarray) -> float:
        counts = counts[counts > 0]
        return float((counts * np.log2(counts.sum() / counts)).sum() / 8)

    kept = weights[weights != 0]
    return entropy(np.array([kept.size, weights.size - kept.size])) + entropy(
        np.unique(kept, return_counts=True)[1]
    )


def network() -> None:
    """The file against the bound and the compressors, and the rates against a memory pass."""
    arrays = resnet_18(np.random.default_rng(0))
    elements = sum(array.size for array in arrays.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.safetensors"
        file_bytes = pack.save(path, arrays)
        loaded = pack.load(path)
        assert all(loaded[name].tobytes() == array.tobytes() for name, array in arrays.items())
        saving = rate(lambda: pack.save(path, arrays), 4 * elements)
        loading = rate(lambda: pack.load(path), elements)
    weights = [array for array in arrays.values() if array.ndim > 1]
    bound = sum(mask_and_index_bytes(array) for array in weights)
    bound += sum(array.nbytes for array in arrays.values() if array.ndim == 1)
    dense = b"".join(array.tobytes() for array in arrays.values())
    print(f"\nResNet-18, {elements:,} weights, 80 % zeros, 32 other values")
    for name, size in {
        "mask and index entropy": bound,
        "moptcore, the file": file_bytes,
        "zstd -19": len(zstandard.ZstdCompressor(19).compress(dense)),
        "gzip -9": len(zlib.compress(dense, 9)),
        "float32": len(dense),
    }.items():
        print(f"  {name:<28} {size:12,.0f} bytes {size / bound:8.3f} x the entropy")

    # As float32, and as int8: the number of each value.
    floats = [(pack.encode(array), np.empty_like(array)) for array in weights]
    numbers = []
    for array in weights:
        values = np.unique(array)
        zero = np.searchsorted(values, 0)
        numbers.append((np.searchsorted(values, array) - zero).astype(np.int8))
    integers = [(pack.encode(array), np.empty_like(array)) for array in numbers]

    def decode(tensors: list[tuple[bytes, np.ndarray]]) -> None:
        for data, out in tensors:
            pack.decode(data, out=out)

    for tensors, sources in ((floats, weights), (integers, numbers)):
        decode(tensors)
        assert all(
            out.tobytes() == array.tobytes()
            for (_, out), array in zip(tensors, sources, strict=True)
        )
    timings = interleave(
        {
            "float32": lambda: decode(floats),
            "int8": lambda: decode(integers),
            "copy float32": lambda: [
                np.copyto(out, array) for (_, out), array in zip(floats, weights, strict=True)
            ],
        },
        seconds=8.0,
    )
    print(f"  save {saving:.0f} MB/s of float32, load {loading:.0f} M weights/s")
    count = sum(array.size for array in weights)
    for name, timing in timings.items():
        print(
            f"  {'decode to ' if name != 'copy float32' else ''}{name:<14} "
            f"{count / timing.median / 1e6:6.2f} G weights/s, best {count / timing.best / 1e6:6.2f}"
        )


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
    network()
