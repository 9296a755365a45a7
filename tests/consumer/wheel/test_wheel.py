# SPDX-License-Identifier: Apache-2.0
"""The wheel and the editable install, as a user meets them."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = re.search(
    r'MOPTCORE_VERSION "([0-9.]+)"', (ROOT / "include/moptcore/core/version.hpp").read_text()
)[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
# The flags of the dev preset: what it has compiled comes out of the compiler cache.
BUILD = ["--no-build-isolation", "--no-deps", "-Ccmake.define.MOPTCORE_WARNINGS_AS_ERRORS=ON"]

USE = """
import sys
import moptcore
frameworks = {"torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "typer", "rich",
              "matplotlib", "plotly", "jinja2", "pandas", "scipy"}
assert not frameworks & set(sys.modules), frameworks & set(sys.modules)
import numpy
mask = moptcore.prune.magnitude_mask(numpy.array([1.0, -3.0, 2.0, -0.5]), 0.5)
assert mask.tolist() == [False, True, True, False]
print(moptcore.__version__, moptcore.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", str(ROOT), *BUILD, "-w", str(folder)], check=True)
    (made,) = folder.glob("*.whl")
    return made


def make_environment(folder: Path) -> Path:
    """An environment that sees the packages of this one, but not this checkout."""
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    packages.joinpath("outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def run_outside(python: Path, tmp_path: Path) -> list[str]:
    done = subprocess.run(
        [python, "-W", "error", "-c", USE], cwd=tmp_path, env={}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"moptcore", f"moptcore-{VERSION}.dist-info"}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    extensions = {name for name in names if name.endswith(".so")}
    assert extensions == {f"moptcore/_core{suffix}", f"moptcore/_runtime{suffix}"}
    sources = {
        str(path.relative_to(ROOT / "python"))
        for path in (ROOT / "python/moptcore").rglob("*")
        if path.suffix in {".py", ".typed", ".pyi", ".html", ".j2"}
    }
    assert sources <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_needs_numpy_and_onednn_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"moptcore-{VERSION}.dist-info/METADATA").decode()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert needed == ["numpy", "onednn-cpu-gomp"]


def test_an_installed_wheel_works_and_imports_no_framework(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    pip = [*PIP, "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    version, file = run_outside(python, tmp_path)
    assert version == VERSION
    assert Path(file).is_relative_to(tmp_path)


def test_an_editable_install_runs_the_sources(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    subprocess.run([*PIP, "--python", str(python), "install", *BUILD, "-e", str(ROOT)], check=True)
    version, file = run_outside(python, tmp_path)
    assert version == VERSION
    assert Path(file) == ROOT / "python/moptcore/__init__.py"
