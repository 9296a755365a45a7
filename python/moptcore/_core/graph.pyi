# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
from __future__ import annotations
import collections.abc
import typing

__all__: list[str] = ["Model", "ValueInfo", "load"]

class ValueInfo:
    """
    An input or output: its name, dtype and shape.
    """
    def __repr__(self) -> str: ...
    @property
    def dtype(self) -> str:
        """
        NumPy's or ml_dtypes' name; 'string'; 'sequence(float32)'; 'optional(int64)'.
        """
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple | None:
        """
        Extents: numbers, names of symbols, or None; None where the rank is unknown.
        """

class Model:
    """
    A model: what ONNX describes, or a file of it holds.
    """
    def __repr__(self) -> str: ...
    def evaluate(
        self, inputs: dict, outputs: collections.abc.Sequence[str] | None = None, *, seed: int = 0
    ) -> dict[str, typing.Any]:
        """
        The outputs by name, or the values named in `outputs`, of arrays by name.

        Plain loops, one operator after the other: slow, and what faster ways are compared
        with. Arrays of every framework are read; NumPy arrays are returned, lists of them for
        sequences, None for an optional without a value.
        """
    @property
    def inputs(self) -> list[ValueInfo]:
        """
        The inputs that a run must be given.
        """
    @property
    def opsets(self) -> dict[str, int]:
        """
        The version of each domain of operators; '' is ONNX's own.
        """
    @property
    def outputs(self) -> list[ValueInfo]:
        """
        What a run returns.
        """

def load(
    path_or_bytes: typing.Any, *, external_directory: typing.Any | None = None, max_bytes: int = 0
) -> Model:
    """
    The model in an ONNX file, or in the bytes of one.

    Weights in files of their own are read below the model's folder, or below
    `external_directory`, which bytes need. `max_bytes` bounds what the model takes beside
    its file; 0 is three times the file and 32 MiB. Raises FormatError, naming the field, for
    a broken model, UnsupportedError for one that is too old or too new.
    """
