# SPDX-License-Identifier: Apache-2.0
"""What was done to each layer, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moptcore._core import CoverageError

__all__ = ["Coverage", "CoverageError", "require", "table"]


@dataclass(frozen=True, slots=True)
class Coverage:
    """One parameter (or graph operator) and what a technique did to it.

    ``before`` and ``after`` hold figures such as ``{"nonzeros": 1000, "dtype": "float32"}``.
    ``selected`` is False where the caller's include and exclude left the row out: that is a
    decision, not a failure, so ``strict`` does not object to it.
    """

    name: str
    kind: str
    technique: str
    done: bool
    reason: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    selected: bool = True


def require(rows: Iterable[Coverage], technique: str) -> None:
    """Raises CoverageError with all rows when a selected one was not done: ``strict=True``."""
    rows = tuple(rows)
    missed = [row for row in rows if row.selected and not row.done]
    if missed:
        names = ", ".join(row.name for row in missed)
        raise CoverageError(
            f"[{technique}] strict=True needs every selected row to be done, "
            f"got {len(missed)} of {len(rows)} not done: {names}\n{table(rows)}"
        )


def table(rows: Iterable[Coverage]) -> str:
    """The rows as aligned text, one line each under a header."""
    lines: list[Sequence[str]] = [("name", "kind", "technique", "done", "change", "reason")]
    lines += [
        (row.name, row.kind, row.technique, _state(row), _change(row), row.reason) for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _state(row: Coverage) -> str:
    if row.done:
        return "yes"
    return "NO" if row.selected else "left out"


def _change(row: Coverage) -> str:
    changes = []
    for key in [*row.before, *(key for key in row.after if key not in row.before)]:
        old, new = row.before.get(key), row.after.get(key)
        if old is None or new is None or old == new:
            changes.append(f"{key} {_shown(new if old is None else old)}")
        else:
            changes.append(f"{key} {_shown(old)} -> {_shown(new)}")
    return ", ".join(changes)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
