# SPDX-License-Identifier: Apache-2.0
"""Arguments that fit no parameter, told as every other error is."""

import pickle
from collections.abc import Callable
from typing import Any

import moptcore as mc
import numpy as np
import pytest
from moptcore._core import describe
from moptcore.core.misfit import explain

W = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: mc.prune.magnitude_mask(None, 0.5),
            "[prune.magnitude_mask] weights must be an array, got None",
        ),
        (
            lambda: mc.prune.magnitude_mask(W, "half"),
            "[prune.magnitude_mask] sparsity must be a number, got 'half'",
        ),
        (
            lambda: mc.prune.magnitude_mask(W),
            "[prune.magnitude_mask] sparsity must be given, got nothing",
        ),
        (
            lambda: mc.prune.magnitude_mask(W, 0.5, W),
            "[prune.magnitude_mask] positional arguments must be at most 2, got 3",
        ),
        (
            lambda: mc.prune.magnitude_mask(W, 0.5, sparsity=0.5),
            "[prune.magnitude_mask] sparsity must be given once, got it by position and by name",
        ),
        (
            lambda: mc.prune.magnitude_mask(W, 0.5, compat=3),
            "[prune.magnitude_mask] compat must be str or None, got 3",
        ),
        (lambda: mc.cluster.kmeans(W, k=2.5), "[cluster.kmeans] k must be an integer, got 2.5"),
        (
            lambda: mc.cluster.kmeans(W, k=2**70),
            f"[cluster.kmeans] k must be a smaller integer, got {2**70}",
        ),
        (
            lambda: mc.quant.MSEObserver().merge(mc.quant.EntropyObserver()),
            "[quant.MSEObserver.merge] other must be quant.MSEObserver, got EntropyObserver",
        ),
        (lambda: mc.quant.QParams(), "[quant.QParams] scale must be given, got nothing"),
        (
            lambda: mc.quant.fake_quantize(W, 0.1),
            "[quant.fake_quantize] qp must be quant.QParams, got 0.1",
        ),
        (lambda: mc.set_num_threads("all"), "[core.set_num_threads] count must be an integer"),
        (
            lambda: mc.prune.ConstantSparsity("a"),
            "[prune.ConstantSparsity] target_sparsity must be a number, got 'a'",
        ),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(mc.DTypeError) as raised:
        call()
    assert str(raised.value).startswith(text)
    assert isinstance(raised.value, TypeError)


def test_an_unknown_argument_is_told_beside_the_known_ones() -> None:
    with pytest.raises(TypeError) as raised:
        mc.prune.nm_mask(W, n=2, m=4, axes=0)
    assert "[prune.nm_mask] arguments must be among weights, n, m, axis," in str(raised.value)
    assert str(raised.value).endswith("got axes")


def test_an_array_that_cannot_be_read_is_named() -> None:
    with pytest.raises(mc.DTypeError) as raised:
        mc.prune.apply_mask(W, np.ones((4, 4), np.complex64))
    assert str(raised.value).startswith("[prune.apply_mask] mask: an array's dtype must be float64")
    assert str(raised.value).endswith("got complex64")


def test_an_error_keeps_its_type() -> None:
    torch = pytest.importorskip("torch", reason="a tensor without memory is one of torch")
    with pytest.raises(mc.UnsupportedError, match=r"^\[prune.magnitude_mask\] weights: an array"):
        mc.prune.magnitude_mask(torch.ones(3, device="meta"), 0.5)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(mc.Error, match=r"^\[prune.magnitude_mask\] sparsity must be in"):
        mc.prune.magnitude_mask(W, 2.0)
    with pytest.raises(mc.DTypeError, match=r"^\[core.asarray\] an array's dtype"):
        describe(np.ones(2, np.complex64))
    with pytest.raises(ZeroDivisionError):
        mc.prune.FunctionSchedule(lambda step: 1 / 0).sparsity(0)


def test_what_only_the_conversion_can_tell_shows_all_arguments() -> None:
    error = TypeError("f(): incompatible function arguments.")
    told = explain(error, "core.f", "(a: int, *, b: some.Thing = {'x': (1, 2)}) -> None", (1,), {})
    assert isinstance(told, mc.DTypeError)
    assert str(told) == "[core.f] arguments must be a an integer, got a=1"


def test_bound_functions_still_have_their_names_and_documents() -> None:
    assert mc.prune.magnitude_mask.__name__ == "magnitude_mask"
    assert mc.prune.magnitude_mask.__doc__.startswith("magnitude_mask(weights: ArrayLike")
    schedule = pickle.loads(pickle.dumps(mc.prune.ConstantSparsity(0.5, 0)))
    assert schedule.sparsity(0) == 0.5
