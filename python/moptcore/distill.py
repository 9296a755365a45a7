# SPDX-License-Identifier: Apache-2.0
"""Losses that train a small network to follow a large one, each with its gradient."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from moptcore._core import DTypeError, Error, FormatError
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
_VERSION = 1


class TeacherCache:
    """A teacher's outputs on disk, one row a sample of the data set, computed once.

        cache = TeacherCache("teacher", samples=50000, shape=100, teacher=name, dataset="train v1")
        cache.put(indices, logits)
        logits = cache.get(indices)

    path: a folder of ordinary files: `values.npy`, `present.npy`, with `top_k` also `classes.npy`,
        and `cache.json`, which says what made them. Opening it again goes on where it stopped.
    samples: the size of the data set. shape: that of one sample's output, or the classes.
    teacher, dataset: fingerprints, any text that changes with what it stands for. A folder made
        for others is refused.
    dtype: "float32", "float64" or "float16" (values beyond 65504 are refused).
    top_k: keeps the k largest logits of the last axis; the others come back as -inf, classes of
        probability 0.

    A sample counts as present only after its values are in the file, so that whoever is stopped
    half way loses nothing but the last call of `put`. One process writes at a time.

    Raises Error for arguments out of range and for a folder of another teacher, data set or
    layout, FormatError for a folder that is no cache or a damaged one.
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
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        for name, value in [("samples", samples), *(("shape", size) for size in sizes)]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._error(f"{name} must be integers >= 1, got {value!r}")
        for name, text in (("teacher", teacher), ("dataset", dataset)):
            if not isinstance(text, str) or not text:
                raise self._error(f"{name} must be a text that is not empty, got {text!r}")
        if dtype not in _DTYPES:
            raise self._error(f"dtype must be one of {_DTYPES}, got {dtype!r}")
        if top_k is not None and (
            not isinstance(top_k, int) or not sizes or not 1 <= top_k <= sizes[-1]
        ):
            raise self._error(f"top_k must be in [1, {sizes[-1:]}], got {top_k!r}")
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
        files = {"values": (dtype, (samples, *stored)), "present": ("uint8", (samples,))}
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
        values = np.asarray(logits)
        if not np.issubdtype(values.dtype, np.floating):
            raise DTypeError(f"[distill.TeacherCache] logits must be floats, got {values.dtype}")
        if values.shape != (len(at), *self.shape):
            raise self._error(f"logits must be {(len(at), *self.shape)}, got {values.shape}")
        if self.top_k is not None:
            # Stable: of equal logits the first classes stay.
            order = np.argsort(-values, axis=-1, kind="stable")[..., : self.top_k]
            values = np.take_along_axis(values, order, axis=-1)
        with np.errstate(over="ignore"):
            narrow = values.astype(self.dtype)
        lost = np.isinf(narrow) & np.isfinite(values)
        if lost.any():
            raise self._error(f"logits must fit {self.dtype}, got {values[lost].flat[0]}")
        self._arrays["values"][at] = narrow
        if self.top_k is not None:
            self._arrays["classes"][at] = order
            self._arrays["classes"].flush()
        self._arrays["values"].flush()
        self._arrays["present"][at] = 1
        self._arrays["present"].flush()

    def get(self, indices: Any) -> np.ndarray:
        """The stored outputs [n, *shape] of the samples `indices` [n], in the cache's dtype.

        Raises Error for indices out of range and samples that are not there yet.
        """
        at = self._indices(indices)
        absent = at[self._arrays["present"][at] == 0]
        if len(absent):
            raise self._error(
                f"indices must be of cached samples, got {absent[0]} and {len(absent) - 1} more "
                "that are not"
            )
        values = np.array(self._arrays["values"][at])
        if self.top_k is None:
            return values
        logits = np.full((len(at), *self.shape), -np.inf, self.dtype)
        np.put_along_axis(logits, np.array(self._arrays["classes"][at]).astype(int), values, -1)
        return logits

    def has(self, indices: Any) -> np.ndarray:
        """Which of the samples `indices` [n] are stored: bool [n]."""
        return np.asarray(self._arrays["present"][self._indices(indices)] != 0)

    def missing(self) -> np.ndarray:
        """The indices of all samples that are not stored yet."""
        return np.flatnonzero(np.asarray(self._arrays["present"]) == 0)

    @property
    def complete(self) -> bool:
        """Whether every sample is stored."""
        return len(self.missing()) == 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._arrays["present"]))

    @staticmethod
    def _error(text: str) -> Error:
        return Error(f"[distill.TeacherCache] {text}")

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
        self.path.mkdir(parents=True, exist_ok=True)
        found = [each.name for each in self.path.iterdir() if not each.name.endswith(".part")]
        strangers = set(found) - {f"{name}.npy" for name in files}
        if strangers:
            raise self._error(
                f"path must be a cache or an empty folder, got {self.path} with {min(strangers)!r}"
            )
        for name, (dtype, shape) in files.items():
            part = self.path / f"{name}.npy.part"
            empty = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
            empty.flush()
            del empty
            os.replace(part, self.path / f"{name}.npy")
        # Last: a folder without it is one that was not finished, and is made again.
        part = self.path / "cache.json.part"
        part.write_text(json.dumps(made_by, indent=1) + "\n", encoding="ascii")
        os.replace(part, self.path / "cache.json")

    def _check(self, made_by: dict[str, Any]) -> None:
        try:
            found = json.loads((self.path / "cache.json").read_text(encoding="ascii"))
        except ValueError as error:
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
