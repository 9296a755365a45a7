# SPDX-License-Identifier: Apache-2.0
"""The address rule, and what every file has in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from house.tree import BUILD, CPP, NAMES, ROOT, TEXT, UPPER, WORDS, files, select, text

BANNED_STEMS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
BANNED_STEMS |= {"impl", "internal", "tools"}
WINGS = {
    "include/moptcore": WORDS | UPPER,
    "src": WORDS | UPPER | {"kernels"},
    "tests/cpp": WORDS | UPPER | {"kernels"},
}
SOURCES = [path for path in files() if path.suffix in CPP | {".py"}]
TEXTS = [path for path in files() if path.suffix in TEXT or path.name in NAMES]


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_has_the_words_as_its_folders(wing: str) -> None:
    folders = {path.name for path in (ROOT / wing).iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= WINGS[wing]


@pytest.mark.parametrize("source", select({".cpp"}, "src"), ids=str)
def test_a_source_has_the_stem_of_a_header(source: Path) -> None:
    room, stem = source.relative_to("src").parts[0], source.stem
    beside = ROOT / source.with_suffix(".hpp")
    public = ROOT / "include/moptcore" / ("core" if room == "kernels" else room) / f"{stem}.hpp"
    mirrored = ROOT / "include/moptcore" / source.relative_to("src").with_suffix(".hpp")
    # Families of functions that one header of the folder declares.
    families = [ROOT / source.with_name(name) for name in ("families.hpp", "rule.hpp")]
    declared = any(f"{stem}_" in header.read_text() for header in families if header.exists())
    assert beside.exists() or public.exists() or mirrored.exists() or declared


@pytest.mark.parametrize("test", select({".cpp"}, *(f"tests/cpp/{w}" for w in WORDS)), ids=str)
def test_a_cpp_test_has_a_name_that_ctest_readers_know(test: Path) -> None:
    assert test.stem.endswith("_test")


@pytest.mark.parametrize("binding", select({".cpp"}, "bindings"), ids=str)
def test_a_binding_is_named_after_its_word(binding: Path) -> None:
    assert binding.stem.split("_")[0] in WORDS | UPPER | {"module", "array", "misfit", "session"}


def test_no_file_has_a_name_that_says_nothing() -> None:
    for path in files():
        assert not {part.split(".")[0].lower() for part in path.parts} & BANNED_STEMS, path


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_source_names_its_licence_first(source: Path) -> None:
    content = text(source)
    if source.name == "__init__.py" and not content:
        return
    lines = [line for line in content.splitlines() if not line.startswith("#!")]
    comment = "#" if source.suffix == ".py" else "//"
    assert lines[0] == f"{comment} SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_text_is_ascii_and_ends_with_a_newline(path: Path) -> None:
    raw = (ROOT / path).read_bytes()
    assert raw.isascii()
    assert raw.endswith(b"\n") or not raw
    assert b"\r" not in raw
    assert b"\t" not in raw or path.name == "Makefile" or path.suffix == ".ipynb"


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_line_fits_into_100_columns(source: Path) -> None:
    long = [n for n, line in enumerate(text(source).splitlines(), 1) if len(line) > 100]
    assert not long, f"lines {long}"


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_nothing_is_left_to_do_and_no_machine_is_named(path: Path) -> None:
    if path == Path(__file__).relative_to(ROOT) or path.name == "CONTRIBUTING.md":
        return
    content = text(path)
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", content)
    machine = re.search(r"(?<![\w.$}:/-])/(?:home|root|Users|mnt|work|workspace)/\w+", content)
    assert not machine, machine


@pytest.mark.parametrize("source", select(CPP, "include", "src"), ids=str)
def test_the_library_neither_prints_nor_ends_the_program(source: Path) -> None:
    code = re.sub(r"//.*", "", text(source))
    assert not re.search(r"\b(abort|exit|_exit|terminate)\s*\(", code)
    assert not re.search(r"\bstd::(cout|cerr|clog)\b|\b(printf|puts|fprintf)\s*\(", code)
    assert not re.search(r"HWY_(ASSERT|ABORT)\b", code)
    if not source.is_relative_to("src/core"):
        assert "getenv" not in code
    if source.stem != "parallel":
        assert not re.search(r"\bstd::j?thread\b|#\s*pragma\s+omp", code)


def test_nothing_is_built_for_the_builder_s_machine_only() -> None:
    """A binary must run on any CPU and give equal bits on all."""
    for path in files():
        if path.suffix in BUILD or path.name == "CMakeLists.txt":
            flags = re.search(r"-march=|-mtune=native|-ffast-math|-Ofast|-mavx|-mfma", text(path))
            assert not flags, f"{path}: {flags}"


def test_the_version_has_one_source() -> None:
    header = text(Path("include/moptcore/core/version.hpp"))
    version = re.search(r'MOPTCORE_VERSION "([0-9.]+)"', header)[1]
    for path in TEXTS:
        if path.suffix in CPP | {".py", ".toml", ".in"} and "version" not in path.name:
            assert f'"{version}"' not in text(path), path


def test_the_licence_is_the_whole_apache_licence() -> None:
    licence = text(Path("LICENSE"))
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert len(licence) > 11_000
