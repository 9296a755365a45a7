# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import moptcore
import numpy as np
import pytest

pytest.importorskip("typer")
from moptcore.cli import main, require
from moptcore.cli.diagnosis import diagnosis, openmp_copies

MAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0
7f0000001000-7f0000002000 r--p 00001000 08:01 11 /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0
7f0000002000-7f0000003000 r-xp 00000000 08:01 12 /opt/my libs/libgomp-a34b3233.so.1.0.0
7f0000003000-7f0000004000 r-xp 00000000 08:01 13 /opt/libiomp5.so
7f0000004000-7f0000005000 r-xp 00000000 08:01 14 /usr/lib/x86_64-linux-gnu/libcomp_err.so.2
7f0000005000-7f0000006000 rw-p 00000000 00:00 0 [heap]
7f0000006000-7f0000007000 rw-p 00000000 00:00 0
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    weight = np.zeros((3, 4), np.float32)
    weight[0, :2] = 1.0
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "[red]w"], ["y"])],
        "test",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(weight, "[red]w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_doctor_reports_the_library_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = diagnosis()
    assert found["moptcore"].startswith(moptcore.__version__)
    assert found["instruction set"].split()[0] in moptcore._core.available_isas()
    assert found["numpy"] == np.__version__
    assert main(["doctor"]) == 0
    assert moptcore.__version__ in capsys.readouterr().out


def test_doctor_names_each_openmp_library_once() -> None:
    assert openmp_copies(MAPS) == [
        "/opt/libiomp5.so",
        "/opt/my libs/libgomp-a34b3233.so.1.0.0",
        "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0",
    ]


def test_inspect_counts_zeros_and_takes_names_as_text(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(model)]) == 0
    out = capsys.readouterr().out
    assert "[red]w" in out
    assert "3x4" in out
    assert "83.3 %" in out  # 10 of 12
    assert f"the file has {model.stat().st_size:,} bytes" in out


def test_inspect_shows_the_encodings_of_a_safetensors_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    size = moptcore.pack.save(path, {"[red]w": np.eye(64, dtype=np.float32)})
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "[red]w" in out
    assert "64x64" in out
    assert f"16,384 bytes dense; the file has {size:,}" in out


def test_errors_of_the_user_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "none.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("moptcore: [cli.inspect] model must be an existing file, got ")
    assert error.count("\n") == 1
    assert main(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err
    assert main(["demo", "--threads", "0"]) == 2


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "doctor", "inspect"))


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moptcore", "inspect", "none.onnx"],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2
    assert "existing file, got 'none.onnx'" in done.stderr


def test_importing_moptcore_imports_neither_typer_nor_rich() -> None:
    code = "import sys, moptcore\nprint({'typer', 'rich', 'torch', 'onnx'} & set(sys.modules))"
    assert python(code).stdout == "set()\n"


def test_require_names_everything_that_is_missing() -> None:
    require("sys", "os")
    message = r"needs no_such_one, no_such_two, .*pip install 'moptcore\[demo\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        require("sys", "no_such_one", "no_such_two")


def test_without_typer_the_command_says_what_to_install() -> None:
    code = (
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'typer' else find(name, *rest)\n"
        "from moptcore.cli import main\nraise SystemExit(main(['doctor']))"
    )
    done = python(code)
    assert done.returncode == 2
    assert done.stderr == (
        "moptcore: this command needs typer, "
        "install what is missing with: pip install 'moptcore[demo]'\n"
    )
