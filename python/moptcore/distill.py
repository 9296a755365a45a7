# SPDX-License-Identifier: Apache-2.0
"""Losses that train a small network to follow a large one, each with its gradient."""

from __future__ import annotations

import json
import math
import operator
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from moptcore._core import DTypeError, Error, FormatError, NonFiniteError
from moptcore._core.distill import (
    attention_loss,
    average_teachers,
    cosine_loss,
    dist_loss,
    feature_loss,
    relational_loss,
    similarity_loss,
    soft_target_loss,
)

__all__ = [
    "TeacherCache",
    "attention_loss",
    "average_teachers",
    "cosine_loss",
    "dist_loss",
    "feature_loss",
    "relational_loss",
    "similarity_loss",
    "soft_target_loss",
]

_DTYPES = ("float16", "float32", "float64")
_VERSION = 2


class TeacherCache:
    """A teacher's outputs on disk, one row a sample of the data set, computed once.

        cache = TeacherCache("teacher", samples=50000, shape=100, teacher=name, dataset="train v1")
        cache.put(indices, logits)
        logits = cache.get(indices)

    path: a folder of ordinary files: `values.npy`, `checks.npy` (a CRC-32 for each sample, 0 where
        there is none yet), with `top_k` also `classes.npy`, and `cache.json`, which says what made
        them. Opening it again goes on where it stopped. Any number of processes may open it, also
        at once; those that write at the same time write different samples.
    samples: the size of the data set. shape: that of one sample's output, or the classes.
    teacher, dataset: fingerprints, any text that changes with what it stands for. A folder made
        for others is refused.
    dtype: "float32", "float64" or "float16" (values beyond 65504 are refused).
    top_k: keeps the k largest logits of the last axis; the others come back as -inf, classes of
        probability 0.

    A sample counts as present only after its values are in the file, so that whoever is stopped
    half way loses nothing but the last call of `put`.

    Raises Error for arguments out of range, for a folder of another teacher, data set or layout and
    for one that is no cache; FormatError for a damaged cache, `get` for a damaged sample.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        samples: int,
        shape: int | tuple[int, ...],
        *,
        teacher: str,
        dataset: str,
        dtype: str = "float32",
        top_k: int | None = None,
    ) -> None:
        self.path = Path(path)
        samples = self._size("samples", samples)
        sizes = tuple(
            self._size("shape", size)
            for size in (shape if isinstance(shape, tuple | list) else (shape,))
        )
        for name, text in (("teacher", teacher), ("dataset", dataset)):
            if not isinstance(text, str) or not text:
                raise self._error(f"{name} must be a text that is not empty, got {text!r}")
        if dtype not in _DTYPES:
            raise self._error(f"dtype must be one of {_DTYPES}, got {dtype!r}")
        if top_k is not None:
            top_k = self._size("top_k", top_k)
            if not sizes or top_k > sizes[-1]:
                raise self._error(f"top_k must be at most the classes, {sizes[-1:]}, got {top_k}")
        self.samples, self.shape = samples, sizes
        self.teacher, self.dataset = teacher, dataset
        self.dtype, self.top_k = np.dtype(dtype), top_k
        stored = sizes if top_k is None else (*sizes[:-1], top_k)
        made_by = {
            "format": "moptcore teacher cache",
            "version": _VERSION,
            "teacher": teacher,
            "dataset": dataset,
            "samples": samples,
            "shape": list(sizes),
            "dtype": dtype,
            "top_k": top_k,
        }
        files = {"values": (dtype, (samples, *stored)), "checks": ("uint32", (samples,))}
        if top_k is not None:
            files["classes"] = ("int32", (samples, *stored))
        if not (self.path / "cache.json").exists():
            self._create(files, made_by)
        self._check(made_by)
        self._arrays = {name: self._open(name, *layout) for name, layout in files.items()}

    def put(self, indices: Any, logits: Any) -> None:
        """Stores the outputs [n, *shape] of the samples `indices` [n], replacing old ones.

        Raises Error for indices out of range, another shape, and values that float16 cannot hold.
        """
        at = self._indices(indices)
        values = _floats(logits)
        if values.shape != (len(at), *self.shape):
            raise self._error(f"logits must be {(len(at), *self.shape)}, got {values.shape}")
        order = None
        if self.top_k is not None:
            if np.isnan(values).any():
                raise NonFiniteError(
                    "[distill.TeacherCache] logits must not contain NaN with top_k, got NaN"
                )
            # Stable: of equal logits the first classes stay.
            order = np.argsort(-values, axis=-1, kind="stable")[..., : self.top_k]
            values = np.take_along_axis(values, order, axis=-1)
            order = order.astype(np.int32)
        with np.errstate(over="ignore"):
            narrow = values.astype(self.dtype)
        lost = np.isinf(narrow) & np.isfinite(values)
        if lost.any():
            raise self._error(f"logits must fit {self.dtype}, got {values[lost].flat[0]}")
        for name, stored in self._rows(narrow, order).items():
            self._arrays[name][at] = stored
            self._arrays[name].flush()
        self._arrays["checks"][at] = self._checks(narrow, order)
        self._arrays["checks"].flush()

    def get(self, indices: Any) -> np.ndarray:
        """The stored outputs [n, *shape] of the samples `indices` [n], in the cache's dtype.

        Raises Error for indices out of range and samples that are not there yet, FormatError for
        a sample that is not what `put` stored.
        """
        at = self._indices(indices)
        checks = np.array(self._arrays["checks"][at])
        absent = at[checks == 0]
        if len(absent):
            raise self._error(
                f"indices must be of cached samples, got {absent[0]} and {len(absent) - 1} more "
                "that are not"
            )
        values = np.array(self._arrays["values"][at])
        classes = None if self.top_k is None else np.array(self._arrays["classes"][at])
        damaged = at[self._checks(values, classes) != checks]
        if len(damaged):
            raise FormatError(
                f"[distill.TeacherCache] samples of {self.path} must be as they were stored, got "
                f"{damaged[0]} and {len(damaged) - 1} more that differ; put them again"
            )
        if classes is None:
            return values
        logits = np.full((len(at), *self.shape), -np.inf, self.dtype)
        np.put_along_axis(logits, classes.astype(int), values, -1)
        return logits

    def has(self, indices: Any) -> np.ndarray:
        """Which of the samples `indices` [n] are stored: bool [n]."""
        return np.asarray(self._arrays["checks"][self._indices(indices)] != 0)

    def missing(self) -> np.ndarray:
        """The indices of all samples that are not stored yet."""
        return np.flatnonzero(np.asarray(self._arrays["checks"]) == 0)

    @property
    def complete(self) -> bool:
        """Whether every sample is stored."""
        return len(self.missing()) == 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._arrays["checks"]))

    @staticmethod
    def _error(text: str) -> Error:
        return Error(f"[distill.TeacherCache] {text}")

    @classmethod
    def _size(cls, name: str, value: Any) -> int:
        try:
            size = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            size = -1
        if size < 1:
            raise cls._error(f"{name} must be integers >= 1, got {value!r}")
        return size

    @staticmethod
    def _rows(values: np.ndarray, classes: np.ndarray | None) -> dict[str, np.ndarray]:
        return {"values": values} if classes is None else {"values": values, "classes": classes}

    def _checks(self, values: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        """The CRC-32 of each sample's bytes, never 0."""
        checks = np.zeros(len(values), np.uint32)
        rows = list(self._rows(values, classes).values())
        for index in range(len(values)):
            check = 0
            for row in rows:
                check = zlib.crc32(row[index].tobytes(), check)
            checks[index] = check or 1
        return checks

    def _indices(self, indices: Any) -> np.ndarray:
        at = np.asarray(indices)
        if at.size == 0:
            at = at.astype(np.int64)
        if not np.issubdtype(at.dtype, np.integer):
            raise DTypeError(f"[distill.TeacherCache] indices must be integers, got {at.dtype}")
        if at.ndim != 1:
            raise self._error(f"indices must have one axis, got {at.shape}")
        outside = at[(at < 0) | (at >= self.samples)]
        if len(outside):
            raise self._error(f"indices must be in [0, {self.samples}), got {outside[0]}")
        return at.astype(np.int64)

    def _create(
        self, files: dict[str, tuple[str, tuple[int, ...]]], made_by: dict[str, Any]
    ) -> None:
        path = self.path.absolute()
        strangers = [each.name for each in path.iterdir()] if path.is_dir() else []
        if "cache.json" in strangers:
            return
        if strangers or (path.exists() and not path.is_dir()):
            raise self._error(
                f"path must be a cache or an empty folder, got {self.path}"
                + (f" with {min(strangers)!r} and no cache.json" if strangers else ", a file")
            )
        # Made beside the folder and renamed: who opens it at the same time finds all or nothing.
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
        try:
            made.mkdir()
            for name, (dtype, shape) in files.items():
                empty = np.lib.format.open_memmap(
                    made / f"{name}.npy", mode="w+", dtype=dtype, shape=shape
                )
                empty.flush()
                del empty
            text = json.dumps(made_by, indent=1) + "\n"
            (made / "cache.json").write_text(text, encoding="ascii")
            os.rename(made, path)
        except (OSError, ValueError, OverflowError) as error:
            shutil.rmtree(made, ignore_errors=True)
            if not (path / "cache.json").exists():
                size = sum(np.dtype(dtype).itemsize * math.prod(at) for dtype, at in files.values())
                raise self._error(
                    f"path must be a folder with room for {size} bytes, got {self.path}: {error}"
                ) from error

    def _check(self, made_by: dict[str, Any]) -> None:
        try:
            found = json.loads((self.path / "cache.json").read_text(encoding="ascii"))
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"[distill.TeacherCache] path must hold a cache.json of JSON, got {self.path}"
            ) from error
        if not isinstance(found, dict) or found.get("format") != made_by["format"]:
            raise FormatError(f"[distill.TeacherCache] path must be a cache, got {self.path}")
        for name, value in made_by.items():
            if found.get(name) != value:
                raise self._error(
                    f"{name} must be that of the cache in {self.path}, {found.get(name)!r}, got "
                    f"{value!r}; another teacher or data set needs another folder"
                )

    def _open(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        path = self.path / f"{name}.npy"
        try:
            # Read-only first: to open a file for writing would make a truncated one longer.
            np.lib.format.open_memmap(path, mode="r")
            array = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            raise FormatError(
                f"[distill.TeacherCache] path must hold {name}.npy of {math.prod(shape)} values, "
                f"got {error}"
            ) from error
        if array.dtype != dtype or array.shape != shape:
            raise FormatError(
                f"[distill.TeacherCache] {path} must be {dtype} {shape}, got {array.dtype} "
                f"{array.shape}"
            )
        return array


def _floats(logits: Any) -> np.ndarray:
    """Logits of any framework as an array that NumPy can rank and cast."""
    if hasattr(logits, "detach"):
        logits = logits.detach().cpu()
        logits = logits.float() if str(logits.dtype) == "torch.bfloat16" else logits
    values = np.asarray(logits)
    if values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    if not np.issubdtype(values.dtype, np.floating):
        raise DTypeError(f"[distill.TeacherCache] logits must be floats, got {values.dtype}")
    return values
