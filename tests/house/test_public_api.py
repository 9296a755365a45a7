# SPDX-License-Identifier: Apache-2.0
"""What `import moptcore` offers: documented, named alike, without a framework."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import moptcore
import pytest
from house.tree import ONEDNN, ROOT, TECHNIQUES

needs_onednn = pytest.mark.skipif(
    importlib.util.find_spec("moptcore._runtime") is None, reason="built without oneDNN"
)
SORTED = [
    pytest.param(word, marks=needs_onednn) if word in ONEDNN else word
    for word in sorted(TECHNIQUES)
]
MODULES = [
    "moptcore",
    *(
        pytest.param(f"moptcore.{word}", marks=needs_onednn)
        if word in ONEDNN
        else f"moptcore.{word}"
        for word in sorted(TECHNIQUES)
    ),
]


def public_members(name: str) -> list[tuple[str, object]]:
    module = importlib.import_module(name)
    return [(member, getattr(module, member)) for member in module.__all__]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_exists_and_is_listed_in_order(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert public_members(name)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_and_class_is_documented(name: str) -> None:
    for member, value in public_members(name):
        if callable(value) and not isinstance(value, type(int | str)):
            assert value.__doc__, f"{name}.{member}"
            if isinstance(value, type) and not issubclass(value, Exception):
                for method, function in vars(value).items():
                    if callable(function) and not method.startswith("_"):
                        assert function.__doc__, f"{name}.{member}.{method}"


@pytest.mark.parametrize("word", SORTED)
def test_a_word_exports_all_that_its_core_binds(word: str) -> None:
    module = "moptcore._runtime" if word in ONEDNN else "moptcore._core"
    binding = getattr(importlib.import_module(module), word)
    bound = {name for name in dir(binding) if not name.startswith("_")}
    assert bound <= set(importlib.import_module(f"moptcore.{word}").__all__)


def test_errors_are_value_errors() -> None:
    for name in ["DTypeError", "NonFiniteError", "UnsupportedError", "FormatError"]:
        assert issubclass(getattr(moptcore, name), moptcore.Error)
    assert issubclass(moptcore.Error, ValueError)
    assert issubclass(moptcore.DTypeError, TypeError)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        moptcore.prun  # noqa: B018


def test_importing_the_words_imports_no_framework() -> None:
    program = (
        "import sys, moptcore, moptcore.prune, moptcore.quant, moptcore.distill, moptcore.pack;"
        "print(sorted({n.split('.')[0] for n in sys.modules} & "
        "{'torch', 'tensorflow', 'keras', 'jax', 'onnx', 'onnxruntime', 'typer', 'rich',"
        " 'matplotlib', 'plotly', 'jinja2', 'scipy', 'pandas'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
