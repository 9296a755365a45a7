# SPDX-License-Identifier: Apache-2.0
"""docs/techniques.md names what there is: all of it, and nothing else."""

from __future__ import annotations

import ast
import re

import pytest
from house.tree import ROOT, TECHNIQUES

PAGE = (ROOT / "docs" / "techniques.md").read_text(encoding="utf-8")


def public(module: str) -> set[str]:
    tree = ast.parse((ROOT / "python" / "moptcore" / module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def section(word: str) -> str:
    found = re.search(rf"^## [^\n]*`moptcore\.{word}`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"docs/techniques.md has no section of moptcore.{word}"
    return found[1]


def column(word: str, index: int) -> set[str]:
    rows = [line.split("|")[1:-1] for line in section(word).splitlines() if line.startswith("| ")]
    cells = " ".join(row[index] for row in rows)
    return set(re.findall(r"`(\w+)[`(]", cells))


@pytest.mark.parametrize("word", sorted(TECHNIQUES))
def test_every_public_function_of_a_word_is_on_the_page(word: str) -> None:
    # Schedule is the union of the schedules, not one of them.
    assert column(word, 1) == public(f"{word}.py") - {"Schedule"}


@pytest.mark.parametrize("word", sorted(TECHNIQUES))
def test_what_the_page_offers_to_torch_is_there(word: str) -> None:
    assert column(word, 2) <= public("torch/__init__.py")
