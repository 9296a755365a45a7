# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import moptcore as mc
import numpy as np
import pytest
from moptcore.distill import TeacherCache


def opened(path, **changes):
    options = {"samples": 10, "shape": 4, "teacher": "t", "dataset": "d", **changes}
    samples, shape = options.pop("samples"), options.pop("shape")
    return TeacherCache(path, samples, shape, **options)


def logits(n, shape=(4,), seed=0):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4,), (3, 5), ()])
def test_what_was_put_is_what_comes_back(tmp_path, dtype, shape):
    cache = opened(tmp_path / "c", dtype=dtype, shape=shape)
    values = logits(10, shape)
    order = np.random.default_rng(1).permutation(10)
    cache.put(order[:6], values[order[:6]])
    assert len(cache) == 6
    assert not cache.complete
    assert sorted(cache.missing()) == sorted(order[6:])
    np.testing.assert_array_equal(cache.has(order), [True] * 6 + [False] * 4)
    cache.put(order[6:], values[order[6:]])
    assert cache.complete
    found = cache.get([3, 3, 9])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values[[3, 3, 9]].astype(dtype))


def test_it_goes_on_where_it_stopped(tmp_path):
    values = logits(10)
    opened(tmp_path).put([1, 2], values[[1, 2]])
    again = opened(tmp_path)
    np.testing.assert_array_equal(again.missing(), [0, 3, 4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(again.get([2]), values[[2]])
    # Values without their mark, as after a stop between the two, do not count.
    raw = np.load(tmp_path / "values.npy", mmap_mode="r+")
    raw[5] = 1
    raw.flush()
    with pytest.raises(mc.Error, match="got 5 and 0 more that are not"):
        opened(tmp_path).get([1, 5])


def test_a_cache_that_lost_its_description_is_not_made_anew(tmp_path):
    opened(tmp_path).put([0], logits(1))
    whole = (tmp_path / "values.npy").read_bytes()
    (tmp_path / "cache.json").unlink()
    with pytest.raises(
        mc.Error, match=r"path must be a cache or an empty folder, .* no cache\.json"
    ):
        opened(tmp_path)
    assert (tmp_path / "values.npy").read_bytes() == whole


def test_many_may_open_it_at_once(tmp_path):
    for attempt in range(10):
        path = tmp_path / str(attempt)
        start = threading.Barrier(4)

        def open_and_put(rank, path=path, start=start):
            start.wait()
            cache = opened(path, samples=4000, shape=100)
            cache.put([rank], logits(1, (100,), seed=rank))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(open_and_put, range(4)))
        cache = opened(path, samples=4000, shape=100)
        assert len(cache) == 4
        for rank in range(4):
            np.testing.assert_array_equal(cache.get([rank]), logits(1, (100,), seed=rank))
    assert {each.name for each in tmp_path.iterdir()} == {str(attempt) for attempt in range(10)}


@pytest.mark.parametrize("file", ["values", "classes", "checks"])
def test_a_damaged_sample_is_refused_and_can_be_put_again(tmp_path, file):
    cache = opened(tmp_path, top_k=2)
    cache.put(np.arange(10), logits(10))
    raw = np.load(tmp_path / f"{file}.npy", mmap_mode="r+")
    raw.reshape(10, -1)[7].view(np.uint8)[0] ^= 1
    raw.flush()
    again = opened(tmp_path, top_k=2)
    with pytest.raises(mc.FormatError, match="got 7 and 0 more that differ"):
        again.get([6, 7])
    np.testing.assert_array_equal(again.get([6]).max(-1), logits(10)[6:7].max(-1))
    again.put([7], logits(1))
    assert np.isfinite(again.get([7])).sum() == 2


def test_arrays_of_pytorch_of_any_float_dtype_are_taken(tmp_path):
    torch = pytest.importorskip("torch", reason="puts tensors of PyTorch")
    values = torch.arange(8.0).reshape(2, 4)
    cache = opened(tmp_path)
    cache.put(torch.tensor([0, 1]), values.clone().requires_grad_())
    cache.put([2, 3], values.bfloat16())
    np.testing.assert_array_equal(cache.get([0, 1, 2, 3]), np.vstack([values, values]))


def test_sizes_may_be_integers_of_any_kind(tmp_path):
    cache = opened(tmp_path / "a", samples=np.int64(3), shape=[np.int32(4)], top_k=np.int8(1))
    assert (cache.samples, cache.shape, cache.top_k) == (3, (4,), 1)
    with pytest.raises(mc.Error, match=r"room for \d{16,} bytes"):
        opened(tmp_path / "b", samples=10**15)
    assert not (tmp_path / "b").exists()


def test_the_files_are_ordinary(tmp_path):
    values = logits(10)
    opened(tmp_path, top_k=2).put(np.arange(10), values)
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"cache.json", "values.npy", "classes.npy", "checks.npy"}
    largest = np.load(tmp_path / "values.npy", allow_pickle=False)
    np.testing.assert_array_equal(largest, np.sort(values)[:, :1:-1])
    assert json.loads((tmp_path / "cache.json").read_text())["teacher"] == "t"


def test_top_k_keeps_the_largest_and_gives_the_rest_no_probability(tmp_path):
    values = logits(10, (3, 6))
    values[0, 0] = [1, 7, 7, 7, 0, 2]
    cache = opened(tmp_path, shape=(3, 6), top_k=2)
    cache.put(np.arange(10), values)
    found = cache.get(np.arange(10))
    np.testing.assert_array_equal(found[0, 0], [-np.inf, 7, 7, -np.inf, -np.inf, -np.inf])
    kept = np.isfinite(found)
    assert np.all(kept.sum(-1) == 2)
    np.testing.assert_array_equal(found[kept], values[kept])
    assert np.all(np.where(kept, np.inf, values).min(-1) <= np.where(kept, values, np.inf).min(-1))
    loss, grad = mc.distill.soft_target_loss(np.zeros_like(found), found)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": "u"},
        {"dataset": "e"},
        {"samples": 11},
        {"shape": 5},
        {"dtype": "float16"},
        {"top_k": 2},
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, change):
    opened(tmp_path)
    (name,) = change
    with pytest.raises(mc.Error, match=f"{name} must be that of the cache"):
        opened(tmp_path, **change)
    assert opened(tmp_path).samples == 10


def test_folders_that_are_no_cache_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(mc.Error, match="thesis"):
        opened(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(mc.FormatError, match=r"cache\.json of JSON"):
        opened(tmp_path)
    (tmp_path / "cache.json").write_text("[" * 100_000)
    with pytest.raises(mc.FormatError, match=r"cache\.json of JSON"):
        opened(tmp_path)
    (tmp_path / "cache.json").write_text("[]")
    with pytest.raises(mc.FormatError, match="path must be a cache"):
        opened(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    opened(tmp_path)
    whole = (tmp_path / "values.npy").read_bytes()
    (tmp_path / "values.npy").write_bytes(whole[:-1])
    with pytest.raises(mc.FormatError, match=r"values\.npy of 40 values"):
        opened(tmp_path)
    np.save(tmp_path / "values.npy", np.zeros((10, 3), np.float32))
    with pytest.raises(mc.FormatError, match=r"must be float32 \(10, 4\), got float32 \(10, 3\)"):
        opened(tmp_path)
    (tmp_path / "values.npy").unlink()
    with pytest.raises(mc.FormatError, match=r"values\.npy"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be integers >= 1, got 0"),
        ({"shape": (4, 0)}, "shape must be integers >= 1, got 0"),
        ({"teacher": ""}, "teacher must be a text that is not empty, got ''"),
        ({"dataset": 3}, "dataset must be a text that is not empty, got 3"),
        ({"dtype": "int8"}, "dtype must be one of .*, got 'int8'"),
        ({"shape": 2.5}, r"shape must be integers >= 1, got 2\.5"),
        ({"shape": None}, "shape must be integers >= 1, got None"),
        ({"top_k": True}, "top_k must be integers >= 1, got True"),
        ({"top_k": 5}, r"top_k must be at most the classes, \(4,\), got 5"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(mc.Error, match=rf"\[distill\.TeacherCache\] {message}"):
        opened(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_wrong_samples_are_named(tmp_path):
    cache = opened(tmp_path, dtype="float16")
    for indices, values, message in (
        ([10], logits(1), r"indices must be in \[0, 10\), got 10"),
        ([-1], logits(1), r"indices must be in \[0, 10\), got -1"),
        ([0.5], logits(1), "indices must be integers, got float64"),
        ([[1]], logits(1), "indices must have one axis"),
        ([1, 2], logits(1), r"logits must be \(2, 4\), got \(1, 4\)"),
        ([1], np.ones((1, 4), int), "logits must be floats, got int64"),
        ([1], np.full((1, 4), 1e6), "logits must fit float16, got 1000000"),
    ):
        with pytest.raises(mc.Error, match=message):
            cache.put(indices, values)
    assert len(cache) == 0
    assert cache.get([]).shape == (0, 4)
    ranked = opened(tmp_path / "ranked", top_k=2)
    with pytest.raises(mc.NonFiniteError, match="must not contain NaN"):
        ranked.put([0], np.array([[1.0, np.nan, 3.0, 2.0]]))
