# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import moptcore
import numpy as np
import pytest
from moptcore.core import FORMAT, fingerprint_of, seal, unseal

STATE = {"prune/a/mask": np.arange(5, dtype=np.uint8), "prune/step": np.int64(7)}


def test_a_sealed_state_gives_its_entries_back() -> None:
    sealed = seal(STATE, "model")
    assert sealed["__format__"].dtype == np.int64
    assert int(sealed["__format__"]) == FORMAT
    assert all(isinstance(value, np.ndarray) for value in sealed.values())
    found = unseal(sealed, "model", strict=True)
    assert set(found) == set(STATE)
    for key, value in STATE.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == np.asarray(value).dtype


def test_the_checksum_is_sha256_over_the_sorted_entries() -> None:
    sealed = seal(STATE, "model")
    digest = hashlib.sha256()
    for key in sorted(set(sealed) - {"__sha256__"}):
        array = sealed[key]
        for text in (key, array.dtype.newbyteorder("<").str, repr(array.shape)):
            digest.update(len(text).to_bytes(8, "little") + text.encode())
        digest.update(array.tobytes())
    assert sealed["__sha256__"].tobytes() == digest.digest()


def test_entries_are_copies() -> None:
    mask = np.zeros(3, np.uint8)
    sealed = seal({"mask": mask}, "model")
    mask[:] = 1
    assert unseal(sealed, "model")["mask"].sum() == 0


@pytest.mark.parametrize("key", ["__format__", "__fingerprint__", "__sha256__"])
def test_a_missing_seal_is_named(key: str) -> None:
    sealed = seal(STATE, "model")
    del sealed[key]
    with pytest.raises(moptcore.FormatError, match=f"must hold {key}"):
        unseal(sealed, "model")


def test_required_entries_that_were_taken_away_are_named() -> None:
    sealed = seal(STATE, "model")
    del sealed["prune/step"]
    with pytest.raises(moptcore.FormatError, match="must hold prune/step, got none"):
        unseal(sealed, "model", required=STATE)
    sealed["prune/step"] = np.int64(8)
    with pytest.raises(moptcore.FormatError, match="__sha256__ must be that of"):
        unseal(sealed, "model", required=STATE)


@pytest.mark.parametrize("change", ["value", "dtype", "shape", "name", "missing", "step"])
def test_any_change_breaks_the_checksum(change: str) -> None:
    sealed = seal(STATE, "model")
    key = "prune/a/mask"
    if change == "value":
        sealed[key][2] ^= 4
    elif change == "dtype":
        sealed[key] = sealed[key].view(np.int8)
    elif change == "shape":
        sealed[key] = sealed[key].reshape(1, 5)
    elif change == "name":
        sealed["prune/b/mask"] = sealed.pop(key)
    elif change == "missing":
        del sealed[key]
    else:
        sealed["prune/step"] = np.array(8, np.int64)
    with pytest.raises(moptcore.FormatError, match="__sha256__"):
        unseal(sealed, "model")


def test_another_model_is_refused_only_when_strict() -> None:
    sealed = seal(STATE, "model")
    with pytest.raises(moptcore.FormatError, match="__fingerprint__"):
        unseal(sealed, "other", strict=True)
    assert set(unseal(sealed, "other", strict=False)) == set(STATE)


@pytest.mark.parametrize("version", [0, FORMAT + 1, 1.5, [1, 1]])
def test_a_format_that_is_not_known_is_refused(version: object) -> None:
    sealed = seal(STATE, "model")
    sealed["__format__"] = np.asarray(version)
    with pytest.raises(moptcore.FormatError, match="__format__ must be an integer in 1"):
        unseal(sealed, "model")


def test_objects_are_refused() -> None:
    with pytest.raises(moptcore.FormatError, match="mask must be an array of numbers"):
        seal({"mask": object()}, "model")


def test_the_fingerprint_depends_on_names_shapes_and_dtypes() -> None:
    base = [("a", (2, 3), "float32"), ("b", (4,), "float32")]
    digests = {
        fingerprint_of(parts)
        for parts in (
            base,
            base[::-1],
            base[:1],
            [("a", (3, 2), "float32"), base[1]],
            [("a", (2, 3), "float64"), base[1]],
        )
    }
    assert len(digests) == 5
    assert fingerprint_of(base) == fingerprint_of(list(base))
