# SPDX-License-Identifier: Apache-2.0
"""The committed type stubs are those of the compiled module."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from house.tree import ROOT


@pytest.mark.skipif(
    importlib.util.find_spec("pybind11_stubgen") is None, reason="pip install pybind11-stubgen"
)
def test_stubs_are_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "stubs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
