# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Runs models: planned once for each set of input shapes, with oneDNN.
"""

from __future__ import annotations
import typing

__all__: list[str] = ["Profile", "ProfileRow", "Session"]

class ProfileRow:
    """
    One step of a run and its time.
    """
    @property
    def implementation(self) -> str:
        """
        oneDNN's name of the code that ran; 'graph' for a plain loop.
        """
    @property
    def milliseconds(self) -> float:
        """
        Median over the runs.
        """
    @property
    def name(self) -> str:
        """
        The value that it computes.
        """
    @property
    def operation(self) -> str:
        """
        Its nodes: 'Conv+Add+Relu'.
        """
    @property
    def shape(self) -> str:
        """
        Of the value.
        """

class Profile:
    """
    Where the time of a run goes; str() is a table.
    """
    def __str__(self) -> str: ...
    def chrome_trace(self) -> str:
        """
        JSON of the last run for chrome://tracing and ui.perfetto.dev.
        """
    def table(self) -> str:
        """
        Sums by operation, then every step.
        """
    @property
    def milliseconds(self) -> float:
        """
        Of a whole run, median.
        """
    @property
    def rows(self) -> list[ProfileRow]:
        """
        The steps in the order in which they run.
        """

class Session:
    """
    Runs a model, from any number of threads at once.
    """
    def __init__(
        self,
        model: typing.Any,
        threads: int | None = None,
        max_isa: str | None = None,
        external_directory: typing.Any = None,
        max_bytes: int = 8589934592,
        max_steps: int = 100000000,
    ) -> None:
        """
        Of an ONNX file, the bytes of one, or a moptcore.graph.Model.

        threads: of each run, the calling one included; None is get_num_threads() at that time.
        max_isa: "avx512", "avx2" or "baseline", for the whole process; it must come before
        anything else uses oneDNN.
        external_directory: below which weights in files of their own are read; bytes need it.
        max_bytes, max_steps: bytes that one tensor may have, and iterations that loops may take in a
        run; beyond them a run ends in an Error. Operators that moptcore lacks are one UnsupportedError that
        names them all.
        """
    def __repr__(self) -> str: ...
    def profile(self, inputs: dict[str, typing.Any], runs: int = 20) -> Profile:
        """
        Times each step of `runs` runs with these inputs.
        """
    def run(self, inputs: dict[str, typing.Any]) -> dict[str, typing.Any]:
        """
        The outputs by name, of arrays by name.

        Contiguous arrays of any framework are read where they lie; NumPy arrays are returned.
        The first run with new shapes plans, later ones take memory for the outputs alone.
        NaN need not survive: oneDNN's Relu and Clip make 0 or a bound of it, where Model.evaluate
        keeps it.
        """
    @property
    def inputs(self) -> list[typing.Any]:
        """
        The inputs that a run must be given, each with name, dtype and shape.
        """
    @property
    def outputs(self) -> list[typing.Any]:
        """
        What a run returns.
        """
