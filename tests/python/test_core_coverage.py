# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
from moptcore.core import Coverage, CoverageError, require, table

DONE = Coverage("a.weight", "Linear", "prune", True, "", {"nonzeros": 10}, {"nonzeros": 2})
MISSED = Coverage("b.weight", "Embedding", "prune", False, "no rule for it", {"nonzeros": 6}, {})
LEFT_OUT = dataclasses.replace(MISSED, name="c.weight", reason="excluded by 'c'", selected=False)


def test_require_lists_every_row_when_one_was_not_done() -> None:
    with pytest.raises(CoverageError) as raised:
        require([DONE, MISSED, LEFT_OUT], "torch.Pruner")
    text = str(raised.value)
    assert "[torch.Pruner]" in text
    assert "1 of 3 not done: b.weight" in text
    assert all(name in text for name in ("a.weight", "b.weight", "c.weight", "no rule for it"))


def test_require_accepts_rows_that_the_caller_left_out() -> None:
    require([DONE, LEFT_OUT], "torch.Pruner")


def test_a_coverage_error_is_a_value_error() -> None:
    assert issubclass(CoverageError, ValueError)


def test_table_aligns_columns_and_shows_changes() -> None:
    lines = table([DONE, MISSED]).splitlines()
    assert len(lines) == 3
    assert "nonzeros 10 -> 2" in lines[1]
    column = lines[0].index("technique")
    assert lines[1][column:].startswith("prune")
    assert lines[2][column:].startswith("prune")


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DONE.done = False  # type: ignore[misc]
