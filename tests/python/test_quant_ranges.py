# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import pickle
import resource

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from moptcore import quant
from reference import quant as integers
from reference import ranges as reference
from torch.ao.quantization import observer as torch_observer

COUNTING = [
    quant.PercentileObserver,
    quant.EntropyObserver,
    quant.MSEObserver,
    quant.HistogramObserver,
]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
BATCH = hnp.arrays(np.float32, st.integers(1, 12), elements=FLOATS)


def observed(kind, *batches, **settings):
    observer = kind(**settings)
    for batch in batches:
        observer.update(batch)
    return observer


def activations(n=20000, seed=0):
    """A bulk and a few far outliers, as activations have them."""
    rng = np.random.default_rng(seed)
    x = rng.laplace(0.1, 1.0, n).astype(np.float32)
    x[:: n // 20] *= 8
    return x


@settings(max_examples=200, deadline=None)
@given(batches=st.lists(BATCH, min_size=1, max_size=5), bins=st.sampled_from([2, 3, 16, 2048]))
def test_counts_are_those_of_all_values_binned_at_once(batches, bins):
    observer = observed(quant.MSEObserver, *batches, bins=bins)
    counts, exponent, _ = reference.histogram(np.concatenate(batches), bins)
    assert observer.exponent[0] == exponent
    assert np.array_equal(observer.counts[0], counts)


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(BATCH, min_size=2, max_size=6),
    bins=st.sampled_from([2, 16, 2048]),
    random=st.randoms(use_true_random=False),
)
def test_no_order_of_updates_and_merges_changes_anything(batches, bins, random):
    expected = observed(quant.HistogramObserver, *batches, bins=bins)
    shuffled = random.sample(batches, len(batches))
    assert observed(quant.HistogramObserver, *shuffled, bins=bins) == expected
    parts = [observed(quant.HistogramObserver, batch, bins=bins) for batch in shuffled]
    while len(parts) > 1:
        one = parts.pop(random.randrange(len(parts)))
        parts[random.randrange(len(parts))].merge(one)
    assert parts[0] == expected
    empty = quant.HistogramObserver(bins=bins)
    parts[0].merge(empty)
    empty.merge(parts[0])
    assert parts[0] == empty == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7, 5, 33), None), ((64, 3, 40), 1), ((3, 700), 0), ((50, 6), 1), ((4, 5, 6), -2),
     ((2, 3, 5000), 1)],
)  # fmt: skip
def test_any_layout_and_dtype_counts_the_same_values(shape, axis, dtype):
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(shape)).to(getattr(torch, dtype))
    x *= torch.linspace(0.5, 4, shape[-1]).to(x.dtype)
    observer = observed(quant.MSEObserver, x, axis=axis, bins=64)
    wide = x.float().numpy()
    rows = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0)
    for c, row in enumerate(rows):
        counts, exponent, _ = reference.histogram(row, 64)
        assert observer.exponent[c] == exponent
        assert np.array_equal(observer.counts[c], counts)
    turned = x.permute(*reversed(range(x.dim())))
    back = None if axis is None else x.dim() - 1 - axis % x.dim()
    other = observed(quant.MSEObserver, turned, axis=back, bins=64)
    assert np.array_equal(other.counts, observer.counts)


def test_more_than_half_of_the_bins_are_in_use():
    for seed in range(20):
        x = activations(1000, seed) * np.float32(1.3) ** seed
        counts, _ = reference.edges_of(observed(quant.MSEObserver, x))
        assert 1024 < len(counts) <= 2048


def test_every_value_lies_in_its_bin_at_the_ends_of_float():
    tiny, top = np.float32(1e-45), np.finfo(np.float32).max
    for values in ([tiny, -tiny], [top, -top], [top, -tiny], [-top, tiny], [0.0, -0.0], [top]):
        x = np.array(values, np.float32)
        for bins in (2, 2048):
            observer = observed(quant.EntropyObserver, x, bins=bins)
            counts, exponent, _ = reference.histogram(x, bins)
            assert observer.exponent[0] == exponent
            assert np.array_equal(observer.counts[0], counts)
    beyond = observed(quant.EntropyObserver, np.array([1e300, 0.0]))
    assert beyond.max[0] == top
    assert beyond.counts.sum() == 2


def test_beyond_2_to_the_24_values_are_counted_one_by_one_where_torch_stops():
    ours, theirs = quant.HistogramObserver(), torch_observer.HistogramObserver()
    for x in (torch.tensor([0.0, 2.0]), torch.ones(2**24), *[torch.ones(1)] * 5):
        ours.update(x)
        theirs(x)
    assert ours.counts.max() == 2**24 + 5
    assert theirs.histogram.max() == 2**24  # float32 counts
    many = observed(quant.HistogramObserver, torch.ones(17_000_000))
    many.update(torch.tensor([3.0]))
    assert sorted(many.counts[0])[-2:] == [1, 17_000_000]


def test_memory_stays_flat_over_ten_thousand_updates():
    observer = quant.MSEObserver()
    x = np.random.default_rng(2).standard_normal((10_000, 16)).astype(np.float32)
    for row in x[:500]:
        observer.update(row)
    size = len(pickle.dumps(observer))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row in x[500:]:
        observer.update(row)
    # Kilobytes: keeping what was seen would take ten thousand arrays.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096
    assert abs(len(pickle.dumps(observer)) - size) < 64
    assert observer.counts.sum() == x.size


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "int4", "int3", "uint2", "ternary"])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.4, 20.0])
def test_the_mean_squared_error_is_the_least_of_all_candidates(dtype, symmetric, shift):
    x = activations(3000) + np.float32(shift)
    if shift == 20.0:
        x = np.abs(x)
    # Few enough bins for the pairs to be tried one by one, here and in the core.
    observer = observed(quant.MSEObserver, x, bins=32)
    counts, edges = reference.edges_of(observer)
    low, high = observer.min[0], observer.max[0]

    def cost(a, b):
        return reference.mean_error(
            counts, edges, low, high, reference.grid_of(a, b, dtype, symmetric)
        )

    if symmetric:
        top = max(-low, high)
        ends = np.minimum(np.unique(np.abs(edges)), top)
        least = min(cost(-e, e) for e in ends if e > 0)
    else:
        lows = np.maximum([0.0, *edges[edges < 0]], low) if low < 0 else [0.0]
        highs = np.minimum([0.0, *edges[edges > 0]], high) if high > 0 else [0.0]
        least = min(cost(a, b) for a, b in itertools.product(lows, highs) if a != b)
    a, b = observer.range(dtype, symmetric)
    # Both sums have some hundred terms, each rounded a few times in double.
    assert cost(a[0], b[0]) == pytest.approx(least, rel=1e-9)


def test_the_mean_squared_error_beats_the_whole_range_on_the_values_themselves():
    x = activations()
    errors = {}
    for kind in (quant.MinMaxObserver, *COUNTING):
        qp = observed(kind, x).qparams("int4", symmetric=False)
        errors[kind] = np.mean((quant.fake_quantize(x, qp) - x) ** 2)
    assert errors[quant.MSEObserver] < 0.5 * errors[quant.MinMaxObserver]
    assert errors[quant.MSEObserver] <= 1.001 * min(errors.values())


def test_a_descent_over_two_ends_is_as_good_as_all_pairs():
    x = activations(3000) + np.float32(0.3)
    observer = observed(quant.MSEObserver, x, bins=128)
    counts, edges = reference.edges_of(observer)
    low, high = observer.min[0], observer.max[0]
    assert np.sum(edges < 0) * np.sum(edges > 0) > 32 * 32

    def cost(a, b):
        grid = reference.grid_of(a, b, "int4", symmetric=False)
        return reference.mean_error(counts, edges, low, high, grid)

    lows, highs = edges[edges < 0], edges[edges > 0]
    least = min(
        cost(max(a, low), min(b, high)) for a, b in itertools.product(lows[::2], highs[::2])
    )
    a, b = observer.range("int4", symmetric=False)
    assert cost(a[0], b[0]) <= least * (1 + 1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("one_sided", [True, False])
def test_the_divergence_is_the_least_of_all_candidates(symmetric, one_sided):
    x = activations(5000)
    if one_sided:
        x = np.abs(x)
    observer = observed(quant.EntropyObserver, x, bins=64)
    counts, edges = reference.edges_of(observer)
    if symmetric:
        counts, edges = reference.fold(counts, edges)
    width = edges[1] - edges[0]
    low, high = observer.min[0], observer.max[0]
    top = max(-low, high)
    levels = 8 if symmetric else 16

    def cost(a, b):
        if symmetric:
            grid = reference.grid_of(-min(b, top), min(b, top), "int4", True)
        else:
            grid = reference.grid_of(max(a, low), min(b, high), "int4", False)
        if b - a < levels * width:
            return np.inf
        return reference.divergence(counts, edges, a, b, grid)

    lows = [0.0] if symmetric or one_sided else [0.0, *edges[edges < 0]]
    least = min(cost(a, b) for a, b in itertools.product(lows, edges[edges > 0]))
    assert np.isfinite(least)
    a, b = observer.range("int4", symmetric)
    if symmetric:
        assert a[0] == -b[0]
        found = 0.0, next(e for e in edges if min(e, top) == b[0])
    else:
        start = edges[edges < 0][0] if low < 0 else 0.0
        found = max(a[0], start) if a[0] > low else start, next(e for e in edges if e >= b[0])
    # Logarithms of two computations of the same terms, to a few units in the last place.
    assert cost(*found) == pytest.approx(least, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", ["int4", "uint3", "int2"])
@pytest.mark.parametrize("values", ["laplace", "normal", "skewed", "two_bulks"])
def test_a_descent_of_the_divergence_is_as_good_as_every_second_pair(values, dtype):
    rng = np.random.default_rng(7)
    x = {
        "laplace": lambda: activations(3000) + np.float32(0.3),
        "normal": lambda: rng.standard_normal(3000),
        "skewed": lambda: rng.gamma(2.0, 1.0, 3000) - 3,
        "two_bulks": lambda: np.append(rng.normal(-2, 0.4, 1000), rng.normal(3, 0.7, 2000)),
    }[values]().astype(np.float32)
    observer = observed(quant.EntropyObserver, x, bins=128)
    counts, edges = reference.edges_of(observer)
    low, high = observer.min[0], observer.max[0]
    width = edges[1] - edges[0]
    lows, highs = edges[edges < 0], edges[edges > 0]
    assert lows.size * highs.size > 32 * 32
    qmin, qmax = (integers.INTEGERS | integers.FEW)[dtype]

    def cost(a, b):
        if b - a < (qmax - qmin + 1) * width:
            return np.inf
        grid = reference.grid_of(max(a, low), min(b, high), dtype, False)
        return reference.divergence(counts, edges, a, b, grid)

    least = min(cost(a, b) for a, b in itertools.product(lows[::2], highs[::-1][::2]))
    a, b = observer.range(dtype, symmetric=False)
    found = cost(edges[edges <= a[0]][-1], edges[edges >= b[0]][0])
    assert np.isfinite(found)
    assert found <= least * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("tails", ["split", "each", "absolute"])
def test_at_most_the_given_share_is_cut_and_one_more_bin_would_be_too_much(percentile, tails):
    x = activations(10007)
    observer = observed(quant.PercentileObserver, x, percentile=percentile, tails=tails)
    (low,), (high,) = observer.range()
    width = 2.0 ** observer.exponent[0]
    allowed = x.size * (100 - percentile) / (200 if tails == "split" else 100)

    def cut(by):
        if tails == "absolute":
            bound = max(-low, high)
            return [np.sum(np.abs(x) > bound - by)]
        return [np.sum(x < low + by), np.sum(x > high - by)]

    assert all(count <= allowed for count in cut(0.0))
    assert all(count > allowed for count in cut(1.001 * width))
    if percentile == 100.0:
        assert (low, high) == (x.min(), x.max())


def test_the_path_is_torchs_and_its_end_never_worse_than_torchs_first_minimum():
    for seed in range(3):
        x = activations(seed=seed)
        ours = observed(quant.HistogramObserver, x)
        theirs = torch_observer.HistogramObserver(qscheme=torch.per_tensor_affine)
        theirs(torch.from_numpy(x))
        scale, zero = theirs.calculate_qparams()
        other = quant.QParams(float(scale), int(zero), "uint8")
        errors = [
            np.mean((quant.fake_quantize(x, qp) - x) ** 2)
            for qp in (ours.qparams("uint8", symmetric=False), other)
        ]
        # The counts know each value to a bin only, a twentieth of the error at most.
        assert errors[0] <= 1.05 * errors[1]
        counts, edges = reference.edges_of(ours)
        low, high = ours.range("uint8", symmetric=False)
        grid = reference.grid_of(low[0], high[0], "uint8", False)
        mine = reference.mean_error(counts, edges, x.min(), x.max(), grid)
        whole = reference.grid_of(x.min(), x.max(), "uint8", False)
        assert mine <= reference.mean_error(counts, edges, x.min(), x.max(), whole)


def test_onnxruntime_searches_nothing_at_its_defaults_and_we_clip():
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x = np.random.default_rng(3).standard_normal(20000).astype(np.float32)
    x[0] = 50.0
    theirs = calibrate.HistogramCollector("entropy", False, 128, 128, 99.999, "same")
    theirs.collect({"x": [x]})
    high = theirs.compute_collection_result()["x"][1]
    assert float(high) == 50.0
    ours = observed(quant.EntropyObserver, x)
    assert ours.range()[1][0] < 20.0


def test_onnxruntimes_percentile_is_ours_to_a_bin_but_symmetric_stays_symmetric():
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x = activations(100_000)
    x = np.maximum(x, np.float32(-3))
    theirs = calibrate.HistogramCollector("percentile", True, 2048, 2048, 99.9, "same")
    theirs.collect({"x": [x]})
    low, high = (float(v) for v in theirs.compute_collection_result()["x"][:2])
    ours = observed(quant.PercentileObserver, x, percentile=99.9, tails="absolute")
    step = 2 * np.abs(x).max() / 2048 + 2.0 ** ours.exponent[0]
    assert abs(ours.range()[1][0] - high) <= step
    # Asked for a symmetric range, ONNX Runtime clamps one end to the smallest value.
    assert low != -high
    qp = ours.qparams()
    assert qp.zero_point == 0
    assert (qp.qmin, qp.qmax) == (-127, 127)


@pytest.mark.parametrize("kind", COUNTING)
def test_observers_of_channels_are_observers_of_each(kind):
    x = activations(6000).reshape(3, 2000) * np.array([[1], [5], [0.1]], np.float32)
    together = observed(kind, x, axis=0)
    for dtype, symmetric in [("int8", True), ("uint8", False)]:
        qp = together.qparams(dtype, symmetric)
        low, high = together.range(dtype, symmetric)
        for c in range(3):
            alone = observed(kind, x[c])
            assert alone.range(dtype, symmetric) == (low[c], high[c])
            assert alone.qparams(dtype, symmetric).scale == qp.scale[c]


@pytest.mark.parametrize("kind", COUNTING)
def test_a_single_value_and_nothing_but_zeros_have_a_grid(kind):
    zeros = observed(kind, np.zeros(5, np.float32)).qparams()
    assert (zeros.scale, zeros.zero_point) == (1.0, 0)
    for value in (3.0, -1e-3):
        x = np.full(4, value, np.float32)
        for symmetric in (True, False):
            qp = observed(kind, x).qparams("int8", symmetric)
            assert abs(quant.fake_quantize(x, qp)[0] - value) <= abs(value) * 2.0**-8


@pytest.mark.parametrize("kind", COUNTING)
def test_states_of_counts_resume_exactly_and_others_are_refused(kind):
    x = activations(300).reshape(3, 100)
    observer = observed(kind, x, axis=0, bins=64)
    resumed = kind(axis=0, bins=64)
    resumed.load_state_dict(observer.state_dict())
    copy = pickle.loads(pickle.dumps(observer))
    for each in (observer, resumed, copy):
        each.update(3 * x)
    assert observer == resumed == copy
    assert f"{kind.__name__}(" in repr(observer)
    state = observer.state_dict()
    for other, text in [
        (kind(axis=1, bins=64), "axis 1, got 0"),
        (kind(bins=64), "axis None, got 0"),
        (kind(axis=0), "bins 2048, got 64"),
        (COUNTING[COUNTING.index(kind) - 1](axis=0, bins=64), f"got {kind.__name__}"),
    ]:
        with pytest.raises(mc.FormatError, match=text):
            other.load_state_dict(state)
    counts = state["counts"]
    for change, text in [
        ({"counts": counts - 1}, "counts must be >= 0"),
        ({"counts": counts[:, :63]}, "counts must have 64 columns"),
        ({"exponent": state["exponent"] + 1}, "exponent must be that of min and max"),
        ({"max": state["max"] * np.inf}, "must be finite"),
        ({"max": state["max"][:2]}, "max must have as many"),
    ]:
        with pytest.raises(mc.FormatError, match=text):
            resumed.load_state_dict({**state, **change})
    assert resumed == observer
    resumed.reset()
    assert resumed == kind(axis=0, bins=64)


def test_a_state_of_other_settings_is_refused():
    x = np.ones((2, 3), np.float32)
    for make, text in [
        (lambda v: quant.MinMaxObserver(v), "with axis 0, got 1"),
        (lambda v: quant.MovingAverageObserver(0.1 + v / 2), "with momentum 0.1, got 0.6"),
        (lambda v: quant.PercentileObserver(90.0 + v), "with percentile 90.0, got 91.0"),
        (lambda v: quant.PercentileObserver(tails=["each", "split"][v]),
         "with tails each, got split"),
    ]:  # fmt: skip
        ours, theirs = make(0), make(1)
        theirs.update(x)
        with pytest.raises(mc.FormatError, match=text):
            ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("kind", COUNTING)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_counting_refuses_or_skips_what_is_not_finite(kind, value):
    x = activations(5000)
    clean = observed(kind, x)
    mixed = np.insert(x, [0, 777, 5000], value)
    observer = kind()
    with pytest.raises(mc.NonFiniteError, match=r"\[quant.Observer.update\] x must be finite"):
        observer.update(mixed)
    assert observer == kind()
    observer.update(mixed, nonfinite="skip")
    assert observer == clean
    rows = kind(axis=0)
    rows.update(np.stack([x, np.full_like(x, value)]), nonfinite="skip")
    with pytest.raises(ValueError, match="every channel must have seen a finite value, got 1"):
        rows.qparams()
    rows.update(np.stack([x, x]))
    assert np.array_equal(rows.counts[1], clean.counts[0])


def test_threads_and_instruction_sets_do_not_change_counts():
    x = activations(1_000_003)
    expected, _, _ = reference.histogram(x, 2048)
    core, threads = mc._core, mc.get_num_threads()
    try:
        for isa in core.available_isas():
            core.set_max_isa(isa)
            for count in (1, 2, 5):
                mc.set_num_threads(count)
                for order in (x, x[::-1]):
                    observer = observed(quant.HistogramObserver, order)
                    assert np.array_equal(observer.counts[0], expected)
    finally:
        core.set_max_isa("")
        mc.set_num_threads(threads)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: quant.MSEObserver(bins=1), ValueError,
         "[quant.MSEObserver] bins must be in [2, 65536], got 1"),
        (lambda: quant.EntropyObserver(bins=65537), ValueError,
         "[quant.EntropyObserver] bins must be in [2, 65536], got 65537"),
        (lambda: quant.PercentileObserver(50.0), ValueError,
         "[quant.PercentileObserver] percentile must be in (50, 100], got 50"),
        (lambda: quant.PercentileObserver(tails="both"), ValueError,
         '[quant.PercentileObserver] tails must be "split", "each" or "absolute", got both'),
        (lambda: quant.MSEObserver().qparams(), ValueError,
         "[quant.Observer.range] update must have been called before"),
        (lambda: quant.MSEObserver().update(np.zeros(0, np.float32)), ValueError,
         "[quant.Observer.update] x must have at least one element, got 0"),
        (lambda: quant.MSEObserver().update(np.zeros(3, np.int8)), TypeError,
         "[quant.Observer.update] x must be float64, float32, float16 or bfloat16, got int8"),
        (lambda: observed(quant.MSEObserver, np.ones(3, np.float32)).qparams("float32"), TypeError,
         "dtype must be int8"),
        (lambda: quant.MSEObserver(bins=4).merge(quant.MSEObserver()), ValueError,
         "[quant.MSEObserver.merge] other must have 4 bins, got 2048"),
        (lambda: quant.MSEObserver(axis=0).merge(quant.MSEObserver()), ValueError,
         "[quant.MSEObserver.merge] other must observe the same axis, got None"),
        (lambda: quant.PercentileObserver(99.0).merge(quant.PercentileObserver(98.0)), ValueError,
         "[quant.PercentileObserver.merge] other must have the percentile 99"),
    ],
)  # fmt: skip
def test_bad_ranges_are_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
