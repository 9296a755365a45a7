# SPDX-License-Identifier: Apache-2.0
"""What the demo shows while it works, and the curves that it keeps for the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from moptcore.evaluation import Evaluation
from moptcore.reporting import Check, Curve

__all__ = ["Display"]

_SHOWN_EVERY = 20
_SMOOTHED_OVER = 50


class Display:
    """Progress bars on the console, one per phase; a recorder of what every step gave."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.seconds: dict[str, float] = {}
        self._phases: list[tuple[str, float, float]] = []
        self._loss: list[float] = []
        self._accuracy: list[float] = []
        self._zeros: list[float] = []
        self._asked: list[float] = []
        self._tests: list[tuple[int, float]] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, description: str, steps: int) -> Phase:
        """Begins a phase of `steps` steps; `name` is its short form on the curves."""
        task = self._progress.add_task(description, total=steps, note="")
        return Phase(self, name, description, task, steps)

    def curves(self) -> list[Curve]:
        steps = range(1, len(self._loss) + 1)
        phases = self._phases
        tests, scores = [t for t, _ in self._tests], [a for _, a in self._tests]
        smooth = f"training, mean of {_SMOOTHED_OVER} steps"
        return [
            Curve(
                "Share of zeros in the float weights after every step",
                {"zeros": (steps, self._zeros), "asked": (steps, self._asked)},
                percent=True,
                phases=phases,
            ),
            Curve(
                f"Loss, mean of {_SMOOTHED_OVER} steps (each phase has its own loss function)",
                {"loss": (steps, self._smoothed(self._loss))},
                phases=phases,
            ),
            Curve(
                "Accuracy",
                {smooth: (steps, self._smoothed(self._accuracy)), "test": (tests, scores)},
                percent=True,
                phases=phases,
                markers=frozenset({"test"}),
            ),
        ]

    def table(self, models: Mapping[str, Evaluation], baseline: str) -> None:
        """Prints one line per model; sizes are those of the files on disk."""
        table = _table("What became of the network")
        table.add_column("model", no_wrap=True)
        for column in ("accuracy", "zeros", "file", "smaller", "gzipped", "p50", "p99"):
            table.add_column(column, justify="right", no_wrap=True)
        whole = models[baseline].size_bytes or 1
        for name, each in models.items():
            size, gzipped, latency = each.size_bytes or 1, each.gzip_bytes or 0, each.latency
            table.add_row(
                name,
                f"{100 * each.accuracy:.2f} %",
                f"{100 * each.sparsity:.1f} %",
                f"{size / 1e3:,.0f} kB",
                f"{whole / size:.2f}x",
                f"{gzipped / 1e3:,.0f} kB",
                f"{1e3 * latency.p50:.0f} us" if latency else "-",
                f"{1e3 * latency.p99:.0f} us" if latency else "-",
                style="bold" if name in (baseline, list(models)[-1]) else None,
            )
        self.console.print("", table, sep="\n")

    def goals(self, checks: Sequence[Check]) -> None:
        table = _table("Goals")
        table.add_column("goal", no_wrap=True)
        table.add_column("asked", justify="right", no_wrap=True)
        table.add_column("measured", justify="right", no_wrap=True)
        table.add_column("met")
        for check in checks:
            met = "[green]yes" if check.passed else "[bold red]MISSED"
            table.add_row(check.goal, check.asked, check.measured, met)
        self.console.print("", table, sep="\n")

    def _smoothed(self, values: Sequence[float]) -> list[float]:
        """The mean over the last steps of the same phase."""
        smooth = []
        for _, begin, end in self._phases:
            for step in range(int(begin), int(end)):
                window = values[max(int(begin), step - _SMOOTHED_OVER + 1) : step + 1]
                smooth.append(sum(window) / len(window))
        return smooth


def _table(title: str) -> Table:
    """Plain enough to fit all columns into a terminal of 80."""
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        header_style="dim underline",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


class Phase:
    """Used as `with display.phase(...) as phase`; `step` once a training step."""

    def __init__(
        self, display: Display, name: str, description: str, task: TaskID, steps: int
    ) -> None:
        self._display, self._name, self._description = display, name, description
        self._task, self._steps = task, steps
        self._begin = len(display._loss)
        self._started = time.perf_counter()

    def __enter__(self) -> Phase:
        return self

    def __exit__(self, *_: object) -> None:
        display = self._display
        display.seconds[self._name] = time.perf_counter() - self._started
        display._phases.append((self._name, self._begin, len(display._loss)))

    def step(self, loss: float, accuracy: float, zeros: float = 0.0, asked: float = 0.0) -> None:
        display = self._display
        display._loss.append(loss)
        display._accuracy.append(accuracy)
        display._zeros.append(zeros)
        display._asked.append(asked)
        done = len(display._loss) - self._begin
        if done % _SHOWN_EVERY == 0 or done == self._steps:
            note = f"loss {loss:.3f}" + (f", zeros {100 * zeros:.1f} %" if asked else "")
            display._progress.update(self._task, completed=done, note=note)

    def test(self, accuracy: float) -> None:
        """The accuracy on the test images at this point."""
        display, note = self._display, f"test accuracy {100 * accuracy:.2f} %"
        display._tests.append((len(display._loss), accuracy))
        display._progress.update(self._task, note=note)
        if not display.console.is_terminal:
            # Bars are drawn on terminals only; a log gets a line a phase.
            seconds = time.perf_counter() - self._started
            display.console.print(f"{self._description:<26} {seconds:5.1f} s, {note}")
