# SPDX-License-Identifier: Apache-2.0
"""The files of the repository, as the rules see them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = {"cluster", "core", "prune", "quant", "distill", "pack", "lowrank"}
TECHNIQUES = WORDS - {"core"}
# Words that are compiled into the runtime target and bound in _runtime: they need oneDNN.
ONEDNN = {"lowrank"}
# Words of targets and modules of their own, above the others.
UPPER = {"graph", "runtime"}

CPP = {".cpp", ".hpp"}
BUILD = {".cmake", ".in", ".toml", ".json", ".yaml"}
TEXT = CPP | BUILD | {".py", ".pyi", ".md", ".txt", ".ipynb", ".html", ".j2"}
NAMES = {"Makefile", "LICENSE", "bootstrap", "run"}


@cache
def files() -> tuple[Path, ...]:
    """Files that are in the repository or about to be, relative to ROOT."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (Path(name) for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


def select(suffixes: set[str], *under: str) -> list[Path]:
    """Files with one of the suffixes, below one of the folders if any is named."""
    return [
        path
        for path in files()
        if path.suffix in suffixes
        and (not under or any(path.is_relative_to(folder) for folder in under))
    ]


def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
