# SPDX-License-Identifier: Apache-2.0
"""DLPack producers made field by field with ctypes, to hand the border what no framework would."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)
from typing import Any

import numpy as np


class DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("dtype", DataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


DELETER = ctypes.CFUNCTYPE(None, c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", c_void_p), ("deleter", DELETER)]


class ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", DELETER),
        ("flags", c_uint64),
        ("tensor", Tensor),
    ]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = py_object
_new_capsule.argtypes = [c_void_p, c_char_p, c_void_p]
_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype = c_char_p
_get_name.argtypes = [py_object]

# A capsule keeps the address of its name, so the names must live as long as the process.
_VERSIONED, _PLAIN = b"dltensor_versioned", b"dltensor"


class Producer:
    """An object with ``__dlpack__`` over a NumPy array; every field can be overridden."""

    def __init__(
        self,
        array: np.ndarray,
        *,
        versioned: bool = True,
        null_deleter: bool = False,
        accepts_version: bool = True,
        **fields: Any,
    ) -> None:
        self.array = array
        self.deleted = 0
        self.versioned = versioned
        self.null_deleter = null_deleter
        self.accepts_version = accepts_version
        self.fields = fields
        self.capsule: Any = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.fields.get("device_type", 1), 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        if kwargs and not self.accepts_version:
            raise TypeError("__dlpack__() got an unexpected keyword argument")
        array, fields = self.array, self.fields
        shape = fields.get("shape", array.shape)
        strides = fields.get("strides", tuple(s // array.itemsize for s in array.strides))
        codes = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
        dtype = fields.get("dtype", (codes[array.dtype.kind], array.itemsize * 8, 1))
        self._shape = None if shape is None else (c_int64 * max(len(shape), 1))(*shape)
        self._strides = None if strides is None else (c_int64 * max(len(strides), 1))(*strides)
        tensor = Tensor(
            fields.get("data", array.ctypes.data),
            fields.get("device_type", 1),
            0,
            fields.get("ndim", array.ndim),
            DataType(*dtype),
            self._shape,
            self._strides,
            fields.get("byte_offset", 0),
        )

        def count(_: int) -> None:
            self.deleted += 1

        self._deleter = DELETER() if self.null_deleter else DELETER(count)
        if self.versioned:
            major, minor = fields.get("version", (1, 0))
            self._managed: Any = ManagedVersioned(
                major, minor, None, self._deleter, fields.get("flags", 0), tensor
            )
        else:
            self._managed = Managed(tensor, None, self._deleter)
        name = _VERSIONED if self.versioned else _PLAIN
        self.capsule = _new_capsule(ctypes.addressof(self._managed), name, None)
        return self.capsule

    @property
    def capsule_name(self) -> bytes:
        name: bytes = _get_name(self.capsule)
        return name
