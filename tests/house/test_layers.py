# SPDX-License-Identifier: Apache-2.0
"""Who may include or import whom: look down, never sideways or up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from house.tree import CPP, ROOT, TECHNIQUES, UPPER, WORDS, select, text

BELOW = {"core": {"core"}} | {word: {"core", word} for word in TECHNIQUES}
BELOW |= {word: WORDS | {word} for word in UPPER}
BELOW["runtime"] |= {"graph"}
DOORS = {
    Path("include/moptcore/core/xtensor.hpp"): "xtensor/",
    Path("include/moptcore/core/eigen.hpp"): "Eigen/",
    Path("include/moptcore/xtensor.hpp"): "xtensor/",
    Path("include/moptcore/eigen.hpp"): "Eigen/",
}
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "jaxlib", "flax", "tf_keras"}
# Installed by an extra, so imported by the room that needs them, when it is used.
EXTRAS = {"onnx", "onnxruntime", "onnxscript", "typer", "rich", "matplotlib", "plotly", "jinja2"}
# Programs written with a room, as a user's would be.
APPLICATIONS = {"demo": {"torch"}}
# What a framework runs on, imported where it does.
BACKENDS = {"keras": {"torch"}}
# What `import moptcore` loads at once.
EAGER = {Path("python/moptcore/__init__.py")} | {
    Path("python/moptcore") / f"{word}.py" for word in WORDS
}


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', text(path), re.MULTILINE)


def words_included(path: Path) -> set[str]:
    found = (re.match(r"moptcore/(\w+)/", include) for include in includes(path))
    return {match[1] for match in found if match}


@pytest.mark.parametrize("header", select({".hpp"}, "include"), ids=str)
def test_a_public_header_looks_down(header: Path) -> None:
    parts = header.relative_to("include/moptcore").parts
    if len(parts) > 1:
        assert words_included(header) <= BELOW[parts[0]]
    for include in includes(header):
        ours = include.startswith("moptcore/")
        standard = "/" not in include and not include.endswith(".hpp")
        door = include.startswith(DOORS.get(header, "\0"))
        assert ours or standard or door, f"{header} includes {include}"


@pytest.mark.parametrize("source", select(CPP, "src"), ids=str)
def test_a_source_looks_down(source: Path) -> None:
    room = source.relative_to("src").parts[0]
    allowed = WORDS if room == "kernels" else BELOW[room]
    assert words_included(source) <= allowed
    for include in includes(source):
        library = include.split("/")[0]
        assert library not in {"pybind11", "Python.h", "xtensor"}, include
        if library == "dnnl.hpp":
            assert source.is_relative_to("src/kernels/onednn"), f"{source} includes {include}"
        if library == "hwy":
            assert room == "kernels", f"{source} includes {include}"
        if library == "protozero":
            assert source.is_relative_to("src/graph/onnx"), f"{source} includes {include}"
        if library == "Eigen":
            assert source.suffix == ".cpp", f"{source} includes {include}"


@pytest.mark.parametrize("source", select(CPP, "bindings"), ids=str)
def test_bindings_see_the_public_headers_only(source: Path) -> None:
    for include in includes(source):
        library = include.split("/")[0]
        assert library not in {"hwy", "kernels", "core", "Eigen", "xtensor", *TECHNIQUES}, include


def test_only_bindings_include_pybind11() -> None:
    for source in select(CPP):
        if source.parts[0] != "bindings":
            assert not any(include.startswith("pybind11") for include in includes(source)), source


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of absolute imports; those for type checkers only do not count."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
        names |= imported(node)
    return names


@pytest.mark.parametrize("module", select({".py"}, "python/moptcore"), ids=str)
def test_a_framework_is_imported_only_in_the_room_with_its_name(module: Path) -> None:
    room = module.relative_to("python/moptcore").with_suffix("").parts[0]
    names = imported(ast.parse(text(module)))
    allowed = {room} | APPLICATIONS.get(room, set()) | BACKENDS.get(room, set())
    assert names & FRAMEWORKS <= allowed
    if module in EAGER:
        assert not names & EXTRAS
    if room not in FRAMEWORKS | set(APPLICATIONS):
        rooms = {f"moptcore.{framework}" for framework in FRAMEWORKS}
        eager = [
            node.module
            for node in ast.parse(text(module)).body
            if isinstance(node, ast.ImportFrom) and node.module
        ]
        assert not any(name in rooms or name.startswith(tuple(rooms)) for name in eager)


def test_the_rules_see_files() -> None:
    assert (ROOT / "CMakeLists.txt").is_file()
    assert len(select({".hpp"}, "include")) >= 10
    assert len(select({".cpp"}, "src")) >= 5
    assert len(select({".py"}, "python/moptcore")) >= 3
