# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import moptcore
import pytest
from moptcore.core import select


class Dense: ...


class Conv: ...


class Wide(Dense): ...


class Block: ...


class Norm: ...


CANDIDATES = [
    ("features.0", "features.0.weight", Conv()),
    ("features.1", "features.1.weight", Wide()),
    ("head", "head.weight", Dense()),
]
MODULES = {"": Block(), "features": Block(), "norm": Norm(), **{c[0]: c[2] for c in CANDIDATES}}


def chosen(include: Any = None, exclude: Any = None, **keywords: Any) -> list[str]:
    found = select(CANDIDATES, include, exclude, "torch.Pruner", **keywords)
    assert [s.parameter for s in found] == [c[1] for c in CANDIDATES]
    assert all(s.selected == (s.reason == "") for s in found)
    return [s.path for s in found if s.selected]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["features.0", "features.1", "head"]),
        ("features", None, ["features.0", "features.1"]),
        (["feat*"], None, ["features.0", "features.1"]),
        ("*.weight", None, ["features.0", "features.1", "head"]),
        ("head.weight", None, ["head"]),
        (Dense, None, ["features.1", "head"]),
        ([Conv, "head"], None, ["features.0", "head"]),
        (None, ["features.?"], ["head"]),
        (None, Conv, ["features.1", "head"]),
        (Dense, Wide, ["head"]),
        ("head", "head", []),
        (lambda name, module: "1" in name and isinstance(module, Dense), None, ["features.1"]),
    ],
)
def test_patterns_select(include: Any, exclude: Any, expected: list[str]) -> None:
    assert chosen(include, exclude) == expected


def test_a_type_covers_the_modules_inside_where_all_modules_are_known() -> None:
    assert chosen(exclude=lambda name, module: name == "head", modules=MODULES) == [
        "features.0",
        "features.1",
    ]
    inner = {**MODULES, "": None}
    assert chosen(include=Block, modules=inner) == ["features.0", "features.1"]


def test_exclude_may_name_modules_without_candidates_but_include_may_not() -> None:
    assert len(chosen(exclude=Norm, modules=MODULES)) == 3
    with pytest.raises(moptcore.Error, match="only modules without such a parameter: norm"):
        chosen(include=Norm, modules=MODULES)


def test_reasons_name_the_pattern() -> None:
    reasons = [s.reason for s in select(CANDIDATES, "features", Conv)]
    assert reasons == ["excluded by Conv", "", "not in include"]


def test_an_unknown_pattern_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"\[torch.Pruner\] include.*got 'haed'.*head") as raised:
        chosen(include=["haed"])
    assert isinstance(raised.value, moptcore.Error)
    with pytest.raises(ValueError, match=r"exclude.*got Norm; module types: Conv, Dense, Wide"):
        chosen(exclude=[Norm])


def test_globs_are_case_sensitive() -> None:
    with pytest.raises(ValueError, match="got 'Head'"):
        chosen("Head")


def test_other_objects_are_no_pattern() -> None:
    with pytest.raises(ValueError, match="globs, types or callables, got 3"):
        chosen(include=[3])
