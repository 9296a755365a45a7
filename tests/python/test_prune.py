# SPDX-License-Identifier: Apache-2.0
"""Schedules against their formulas, masks against sorting, PyTorch and TFMOT's own rule."""

from __future__ import annotations

import copy
import math
import pickle

import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import prune as reference
from torch.nn.utils import prune as torch_prune

prune = mc.prune

FLOATS = ["float64", "float32", "float16", "bfloat16"]
DECAYS = [
    prune.PolynomialDecay,
    prune.LinearDecay,
    prune.CosineDecay,
    prune.ExponentialDecay,
]


def tensor(shape, dtype="float32", seed=0, ties=False):
    """Random weights as a torch tensor, so that bfloat16 exists; with `ties` mostly equal ones."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, shape) / 4 if ties else rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(values)).to(getattr(torch, dtype))


def as_numpy(x):
    return x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


# Schedules


@pytest.mark.parametrize(
    ("schedule", "left"),
    [
        (prune.PolynomialDecay(0.1, 0.9, 10, 250, 2.5, 7), lambda t: (1 - t) ** 2.5),
        (prune.LinearDecay(0.1, 0.9, 10, 250, 7), lambda t: 1 - t),
        (prune.CosineDecay(0.1, 0.9, 10, 250, 7), lambda t: (1 + math.cos(math.pi * t)) / 2),
        (
            prune.ExponentialDecay(0.1, 0.9, 10, 250, 7),
            lambda t: (math.exp(-5 * t) - math.exp(-5)) / (1 - math.exp(-5)),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_decays_follow_their_formula_and_are_flat_outside_their_window(schedule, left):
    for step in range(300):
        t = min(max((step - 10) / 240, 0.0), 1.0)
        # Two libraries' pow, cos and exp: a few units in the last place of numbers below 1.
        assert schedule.sparsity(step) == pytest.approx(0.9 + (0.1 - 0.9) * left(t), abs=1e-15)
    assert schedule.sparsity(10) == 0.1
    assert schedule.sparsity(250) == 0.9
    assert schedule.sparsity(2**62) == 0.9


def test_polynomial_decay_gives_the_values_of_tfmot():
    schedule = prune.PolynomialDecay(0.0, 0.5, 0, 1000)
    # TFMOT computes in float32: the rounding of 1 - p counts three times in the cube, then the
    # cube, the product and the sum round, each by at most 2**-25 of a number below 1.
    assert schedule.sparsity(100) == pytest.approx(float.fromhex("0x1.15810cp-3"), abs=6 * 2**-25)
    assert schedule.sparsity(200) == pytest.approx(float.fromhex("0x1.f3b644p-3"), abs=6 * 2**-25)
    assert schedule.sparsity(500) == 0.4375


@given(
    begin=st.integers(0, 50),
    length=st.integers(1, 200),
    frequency=st.integers(1, 120),
    kind=st.sampled_from(DECAYS),
)
@settings(max_examples=60, deadline=None)
def test_the_last_update_always_lands_on_the_final_sparsity(begin, length, frequency, kind):
    schedule = kind(0.0, 0.75, begin, begin + length, frequency=frequency)
    updates = [step for step in range(begin + length + 130) if schedule.should_prune(step)]
    grid = range(begin, begin + length + 1, frequency)
    assert updates == sorted({*grid, begin + length})
    assert schedule.sparsity(updates[-1]) == 0.75


def test_constant_sparsity_runs_for_ever_or_until_its_end():
    for_ever = prune.ConstantSparsity(0.5, 10)
    assert for_ever.end_step == -1
    assert for_ever.frequency == 100
    assert for_ever.should_prune(10)
    assert not for_ever.should_prune(9)
    assert for_ever.should_prune(10 + 100 * 10**9)
    until = prune.ConstantSparsity(0.5, 10, 25, 10)
    assert [step for step in range(60) if until.should_prune(step)] == [10, 20, 25]
    assert prune.ConstantSparsity(0.5, 7, 7).should_prune(7)
    assert {until.sparsity(step) for step in range(60)} == {0.5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prune.PolynomialDecay(1.0, 0.5, 0, 9), r"initial_sparsity must be in \[0, 1\)"),
        (lambda: prune.LinearDecay(0.0, math.nan, 0, 9), r"final_sparsity .* got nan"),
        (lambda: prune.CosineDecay(0.0, 0.5, -1, 9), r"\[prune.CosineDecay\] begin_step must be"),
        (lambda: prune.ExponentialDecay(0.0, 0.5, 5, 5), r"end_step must be > begin_step \(5\)"),
        (lambda: prune.PolynomialDecay(0.0, 0.5, 0, 9, 0.0), "power must be finite and > 0, got 0"),
        (lambda: prune.LinearDecay(0.0, 0.5, 0, 9, 0), "frequency must be >= 1, got 0"),
        (lambda: prune.ConstantSparsity(0.5, 9, 3), "end_step must be -1 or >= begin_step"),
        (lambda: prune.ConstantSparsity(-0.1, 0), "target_sparsity must be in"),
    ],
)
def test_schedules_refuse_options_out_of_range(make, message):
    with pytest.raises(mc.Error, match=message):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        prune.ConstantSparsity(0.25, 3, 9, 2),
        prune.PolynomialDecay(0.1, 0.9, 10, 250, 2.5, 7),
        *(kind(0.1, 0.9, 10, 250, 7) for kind in DECAYS[1:]),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_are_plain_values(schedule):
    kind = type(schedule)
    config = schedule.get_config()
    assert all(getattr(schedule, name) == value for name, value in config.items())
    for twin in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        kind(**config),
        kind.from_config(config),
        eval(repr(schedule), vars(prune)),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert twin is not schedule
    assert schedule != kind(**{**config, "frequency": 50})
    assert schedule != "schedule"


# Magnitude masks


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 1000, 20_011, 70_001])
def test_magnitude_mask_prunes_exactly_the_lowest(dtype, ties, n):
    weights = tensor(n, dtype, seed=n, ties=ties)
    for sparsity in (0.0, 0.1, 0.5, 0.8, 0.999):
        mask = prune.magnitude_mask(weights, sparsity)
        assert isinstance(mask, torch.Tensor)
        expected = reference.magnitude_mask(as_numpy(weights), sparsity)
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_a_large_tensor_gets_the_mask_that_a_full_sort_gives():
    weights = np.random.default_rng(1).standard_normal(1 << 20).astype(np.float32)
    for sparsity in (0.001, 0.5, 0.8, 0.99):
        zeros = round(weights.size * sparsity)
        order = np.lexsort((-np.arange(weights.size), np.abs(weights)))
        expected = np.ones(weights.size, bool)
        expected[order[:zeros]] = False
        np.testing.assert_array_equal(prune.magnitude_mask(weights, sparsity), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.zeros(n),
        lambda n: np.arange(n),
        lambda n: np.arange(n)[::-1],
        lambda n: np.where(np.arange(n) % 2, 0.0, np.arange(n)),
        lambda n: np.repeat(np.arange(n // 1000 + 1), 1000)[:n],
        lambda n: np.where(np.arange(n) < n // 2, 1e-3, 7.0),
        lambda n: np.where(np.arange(n) % 16, 1.0, 1e30),
        lambda n: 2.0 ** (np.arange(n) % 250 - 140),
        # Neighbours alike: a sample of them says much less than its size.
        lambda n: np.repeat(np.sin(np.arange(n // 4096 + 1)), 4096)[:n] * (1 + np.arange(n) / 1e6),
        lambda n: np.repeat(np.sin(np.arange(n // 512 + 1)), 512)[:n] * (1 + np.arange(n) / 1e6),
        # Zeros of an earlier mask.
        lambda n: np.where(np.sin(np.arange(n) ** 2) < 0.9, 0.0, np.cos(np.arange(n))),
    ],
)
@pytest.mark.parametrize("sparsity", [0.03, 0.499, 0.5, 0.501, 0.95])
def test_no_distribution_defeats_the_sampled_bracket(make, sparsity):
    n = 100_003
    weights = make(n).astype(np.float32)
    zeros = round(n * sparsity)
    order = np.lexsort((-np.arange(n), np.abs(weights)))
    expected = np.ones(n, bool)
    expected[order[:zeros]] = False
    np.testing.assert_array_equal(prune.magnitude_mask(weights, sparsity), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40_000),
    st.integers(1, 60),
    st.floats(0.0, 0.999),
    st.sampled_from(FLOATS),
    st.sampled_from(["shuffled", "ascending", "descending"]),
    st.integers(0, 2**32 - 1),
)
def test_few_distinct_values_are_cut_where_a_stable_sort_cuts_them(
    n, distinct, sparsity, dtype, order, seed
):
    rng = np.random.default_rng(seed)
    # Any share for each value, so that ties end or begin at every place of a bracket.
    values = rng.standard_normal(distinct)[
        rng.choice(distinct, n, p=rng.dirichlet(np.full(distinct, 0.3)))
    ]
    if order != "shuffled":
        values = np.sort(values)[:: 1 if order == "ascending" else -1].copy()
    weights = torch.from_numpy(values).to(getattr(torch, dtype))
    np.testing.assert_array_equal(
        prune.magnitude_mask(weights, sparsity).numpy(),
        reference.magnitude_mask(as_numpy(weights), sparsity),
    )


def test_the_count_rounds_half_to_even():
    weights = np.arange(1, 6, dtype=np.float32)
    assert prune.count_zeros(prune.magnitude_mask(weights, 0.1)) == 0
    assert prune.count_zeros(prune.magnitude_mask(weights, 0.5)) == 2
    assert prune.count_zeros(prune.magnitude_mask(weights, 0.7)) == 4


def test_zeros_denormals_and_infinities_rank_by_magnitude():
    tiny = np.float32(1e-45)
    weights = np.array([0.0, -0.0, tiny, -2 * tiny, 1.0, -np.inf, np.inf], np.float32)
    kept = [prune.magnitude_mask(weights, k / 7).nonzero()[0].tolist() for k in range(7)]
    # -0 equals 0 and comes later, so it goes first.
    assert kept == [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6],
        [3, 4, 5, 6],
        [4, 5, 6],
        [5, 6],
        [5],
    ]


def test_flushing_denormals_in_torch_changes_nothing():
    weights = torch.tensor([3, 1, -2, 0], dtype=torch.int32).abs().view(torch.float32)
    doubles = torch.tensor([3, 1, -2, 0]).abs().view(torch.float64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        for x in (weights, doubles):
            assert prune.magnitude_mask(x, 0.5).tolist() == [True, False, True, False]
        masks = prune.global_mask([weights, doubles[:1]], 0.6)
        assert masks[0].tolist() == [True, False, True, False]
        assert prune.structured_mask(weights.reshape(4, 1), 0.5).tolist() == [
            True,
            False,
            True,
            False,
        ]
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_scores", [False, True])
def test_nan_is_an_error_or_ranks_as_asked(dtype, with_scores):
    values = tensor(50_000, dtype, seed=3)
    values[[5, 77, 40_000]] = math.nan
    values[6] = math.inf
    clean = torch.ones_like(values)
    given_scores = {"scores": values} if with_scores else {}
    weights = clean if with_scores else values
    out = np.full(values.numel(), True)
    name = "scores" if with_scores else "weights"
    with pytest.raises(mc.NonFiniteError, match=f"{name} must not contain NaN .* flat index 5$"):
        prune.magnitude_mask(weights, 0.5, out=torch.from_numpy(out), **given_scores)
    assert out.all()
    with pytest.raises(mc.NonFiniteError):
        prune.magnitude_mask(weights, 0.0, **given_scores)
    for nonfinite in ("prune_first", "keep"):
        for sparsity in (0.00005, 0.5):
            mask = prune.magnitude_mask(weights, sparsity, nonfinite=nonfinite, **given_scores)
            ranked = as_numpy(values)
            expected = reference.magnitude_mask(
                ranked, sparsity, ranked if with_scores else None, nonfinite
            )
            np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize(
    "dtype",
    [*FLOATS[:3], *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "bool"],
)
def test_scores_of_any_dtype_rank_with_their_sign(dtype):
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((30, 1000)).astype(np.float32)
    if dtype == "bool":
        scores = rng.integers(0, 2, weights.shape).astype(bool)
    elif np.dtype(dtype).kind == "f":
        scores = rng.standard_normal(weights.shape).astype(dtype)
        scores[0, :4] = [0.0, -0.0, math.inf, -math.inf]
    else:
        limits = np.iinfo(dtype)
        scores = rng.integers(limits.min, limits.max, weights.shape, dtype, endpoint=True)
        scores[0, :2] = [limits.max, limits.min]
    for sparsity in (0.2, 0.5, 0.9):
        expected = reference.keep_highest(
            (scores + 0 if dtype != "bool" else scores).reshape(-1), round(scores.size * sparsity)
        )
        mask = prune.magnitude_mask(weights, sparsity, scores=scores)
        np.testing.assert_array_equal(mask.reshape(-1), expected)


def test_masks_are_the_same_at_any_thread_count_and_strides():
    weights = np.random.default_rng(7).standard_normal((300, 512)).astype(np.float32).round(2)
    expected = prune.magnitude_mask(weights, 0.7)
    threads = mc.get_num_threads()
    try:
        for count in (1, 2, 3, 8):
            mc.set_num_threads(count)
            np.testing.assert_array_equal(prune.magnitude_mask(weights, 0.7), expected)
            strided = np.asfortranarray(weights)
            np.testing.assert_array_equal(prune.magnitude_mask(strided, 0.7), expected)
            wide = np.zeros((600, 1024), np.float32)
            wide[::2, ::-2] = weights
            np.testing.assert_array_equal(prune.magnitude_mask(wide[::2, ::-2], 0.7), expected)
            out = np.zeros((512, 300), bool).T
            assert prune.magnitude_mask(weights, 0.7, out=out) is out
            np.testing.assert_array_equal(out, expected)
    finally:
        mc.set_num_threads(threads)


def test_scalars_and_empty_tensors_have_masks():
    assert prune.magnitude_mask(np.float32(3.0), 0.4).shape == ()
    assert bool(prune.magnitude_mask(np.array(3.0), 0.4))
    assert not bool(prune.magnitude_mask(np.array(3.0), 0.6))
    empty = np.zeros((0, 4), np.float32)
    assert prune.magnitude_mask(empty, 0.5).shape == (0, 4)
    assert prune.magnitude_mask(empty, 0.5, packed=True).shape == (0,)
    assert prune.structured_mask(empty, 0.5).shape == (0,)
    assert prune.structured_mask(empty, 0.5, axis=1).tolist() == [True, True, False, False]
    assert prune.block_mask(empty, 0.5, (2, 2)).shape == (0, 4)
    assert prune.nm_mask(empty, 2, 4).shape == (0, 4)
    assert prune.random_mask((0,), 0.5, 1).shape == (0,)
    assert prune.global_mask([], 0.5) == []


# Packed masks


@given(bits=st.lists(st.booleans(), max_size=100))
@settings(max_examples=60, deadline=None)
def test_packing_follows_numpys_little_order_and_comes_back(bits):
    mask = np.array(bits, bool)
    packed = prune.pack_mask(mask)
    np.testing.assert_array_equal(packed, np.packbits(mask, bitorder="little"))
    np.testing.assert_array_equal(prune.unpack_mask(packed, mask.shape), mask)
    np.testing.assert_array_equal(prune.unpack_mask(packed, mask.size), mask)


def test_every_mask_can_be_asked_for_in_bits():
    weights = tensor((33, 77), seed=2)
    calls = [
        lambda **k: prune.magnitude_mask(weights, 0.6, **k),
        lambda **k: prune.global_mask([weights], 0.6, **k)[0],
        lambda **k: prune.structured_mask(weights, 0.6, expand=True, **k),
        lambda **k: prune.structured_mask(weights, 0.6, **k),
        lambda **k: prune.block_mask(weights, 0.6, (4, 5), **k),
        lambda **k: prune.nm_mask(weights, 2, 4, **k),
        lambda **k: torch.from_numpy(prune.random_mask((33, 77), 0.6, 9, **k)),
    ]
    for call in calls:
        mask = call()
        packed = call(packed=True)
        assert packed.dtype == torch.uint8
        expected = np.packbits(mask.numpy().reshape(-1), bitorder="little")
        np.testing.assert_array_equal(packed.numpy(), expected)


# Global masks


@pytest.mark.parametrize("dtypes", [["float32"] * 3, ["float16"] * 3, FLOATS])
def test_global_mask_ranks_all_tensors_together(dtypes):
    weights = [
        tensor((50 + 10 * i, 40), dtype, seed=i, ties=True) * (i + 1)
        for i, dtype in enumerate(dtypes)
    ]
    for sparsity in (0.0, 0.3, 0.77):
        masks = prune.global_mask(weights, sparsity)
        expected = reference.global_mask([as_numpy(w) for w in weights], sparsity)
        for mask, other in zip(masks, expected, strict=True):
            np.testing.assert_array_equal(mask.numpy(), other)


def test_global_mask_takes_scores_and_outputs():
    weights = [np.ones((3, 4), np.float32), np.ones(20_000, np.float16)]
    scores = [np.arange(12).reshape(3, 4), -np.random.default_rng(1).random(20_000)]
    outs = [np.empty((3, 4), bool), np.empty(20_000, bool)]
    masks = prune.global_mask(weights, 0.5, scores, out=outs)
    assert all(mask is out for mask, out in zip(masks, outs, strict=True))
    for mask, other in zip(masks, reference.global_mask(weights, 0.5, scores), strict=True):
        np.testing.assert_array_equal(mask, other)
    with pytest.raises(mc.NonFiniteError, match=r"weights\[1\] must not contain NaN"):
        prune.global_mask([np.ones(3), np.array([1.0, math.nan])], 0.5)
    with pytest.raises(mc.Error, match=r"scores must be as many as weights \(2\), got 1"):
        prune.global_mask(weights, 0.5, scores[:1])
    with pytest.raises(TypeError, match="weights must be a list or tuple of arrays, got ndarray"):
        prune.global_mask(weights[0], 0.5)


# Patterns


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(37,), (16, 25), (6, 7, 3, 3), (3, 5000), (5, 4, 20)])
@pytest.mark.parametrize("ord", [1, 2, math.inf, 3.5, 0.5])
def test_structured_mask_prunes_the_slices_of_smallest_norm(dtype, shape, ord):
    weights = tensor(shape, dtype, seed=sum(shape))
    for axis in range(-len(shape), len(shape)):
        mask = prune.structured_mask(weights, 0.5, axis, ord)
        expected = reference.structured_mask(as_numpy(weights), 0.5, axis, float(ord))
        np.testing.assert_array_equal(mask.numpy(), expected)
        full = prune.structured_mask(weights, 0.5, axis, ord, expand=True)
        places = [1] * len(shape)
        places[axis] = -1
        np.testing.assert_array_equal(
            full.numpy(), np.broadcast_to(expected.reshape(places), shape)
        )


def test_structured_mask_agrees_with_torch():
    layer = torch.nn.Conv2d(24, 40, 3)
    for axis in (0, 1):
        for order in (1, 2, math.inf):
            module = copy.deepcopy(layer)
            torch_prune.ln_structured(module, "weight", 0.4, n=order, dim=axis)
            ours = prune.structured_mask(layer.weight.detach(), 0.4, axis, order, expand=True)
            np.testing.assert_array_equal(ours.numpy(), module.weight_mask.bool().numpy())


def test_equal_slices_keep_the_first_and_extreme_norms_do_not_overflow():
    assert prune.structured_mask(np.ones((4, 9)), 0.5).tolist() == [True, True, False, False]
    huge = np.array([[1e300, 0.0], [2e300, 0.0], [1e299, 1e299], [3e300, 1.0]])
    for order in (2, 3, 7.5):
        assert prune.structured_mask(huge, 0.5, 0, order).tolist() == [False, True, False, True]
        assert prune.structured_mask(huge / 1e308 / 1e292, 0.5, 0, order).tolist() == [
            False,
            True,
            False,
            True,
        ]
    wide = np.array([[1e38], [2e38], [3e38], [4e37]], np.float32)
    assert prune.structured_mask(wide, 0.5, 0, 10.0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("order", [1, 2, math.inf, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_with_nan_is_refused_or_ranks_as_asked(order, axis):
    weights = np.arange(1.0, 1601.0).reshape(40, 40)
    weights[10, 20] = math.nan
    with pytest.raises(mc.NonFiniteError, match="got NaN at flat index 420"):
        prune.structured_mask(weights, 0.5, axis, order)
    broken = (10, 20)[axis]
    first = prune.structured_mask(weights, 1 / 40, axis, order, nonfinite="prune_first")
    assert first.nonzero()[0].tolist() == [i for i in range(40) if i != broken]
    keep = prune.structured_mask(weights, 39 / 40, axis, order, nonfinite="keep")
    assert keep.nonzero()[0].tolist() == [broken]


def test_structured_mask_takes_a_score_for_each_slice():
    weights = np.ones((2, 5, 3), np.float32)
    scores = [3, -1, 2, -5, 0]
    mask = prune.structured_mask(weights, 0.4, 1, scores=np.array(scores))
    assert mask.tolist() == [True, False, True, False, True]
    with pytest.raises(mc.Error, match=r"scores must have the shape \(5,\), got \(2,\)"):
        prune.structured_mask(weights, 0.4, 1, scores=np.ones(2))


def test_structured_norms_do_not_depend_on_threads():
    weights = tensor((3, 70_000), seed=8)
    twice = torch.cat([weights, weights])
    threads = mc.get_num_threads()
    try:
        for count in (1, 2, 5):
            mc.set_num_threads(count)
            # Equal slices tie only if their sums have equal bits.
            mask = prune.structured_mask(twice, 0.5).numpy()
            assert mask[:3].sum() >= mask[3:].sum()
            np.testing.assert_array_equal(
                mask, reference.keep_highest(np.tile(np.argsort(np.argsort(norms(weights))), 2), 3)
            )
    finally:
        mc.set_num_threads(threads)


def norms(weights):
    return [math.fsum(row**2) for row in as_numpy(weights)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("shape", [(8, 12), (9, 13), (2, 3, 10, 7), (5, 9000), (1, 1)])
@pytest.mark.parametrize("block", [(4, 1), (2, 3), (1, 1), (100, 100)])
def test_block_mask_prunes_whole_blocks(dtype, pooling, shape, block):
    # Quarters have exact sums, so equal means are equal in any order of summation.
    weights = tensor(shape, dtype, seed=4, ties=True)
    mask = prune.block_mask(weights, 0.5, block, pooling)
    expected = reference.block_mask(as_numpy(weights), 0.5, block, pooling)
    np.testing.assert_array_equal(mask.numpy(), expected)


def test_block_mask_pools_scores_with_their_sign():
    scores = np.random.default_rng(2).integers(-8, 8, (10, 10))
    for pooling in ("mean", "max"):
        mask = prune.block_mask(np.ones((10, 10)), 0.5, (3, 3), pooling, scores=scores)
        expected = reference.block_mask(np.ones((10, 10)), 0.5, (3, 3), pooling, scores=scores)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 4), (1, 2), (4, 8), (3, 5), (20, 70)])
@pytest.mark.parametrize("shape", [(24,), (6, 16), (9, 4, 11), (3, 150), (140, 3)])
def test_nm_mask_keeps_n_of_every_m(dtype, ties, n, m, shape):
    weights = tensor(shape, dtype, seed=n, ties=ties)
    for axis in range(len(shape)):
        mask = prune.nm_mask(weights, n, m, axis)
        expected = reference.nm_mask(as_numpy(weights), n, m, axis)
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_nm_mask_takes_scores_strides_and_long_groups():
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((6, 5000)).astype(np.float32)
    scores = rng.integers(-50, 50, weights.shape).astype(np.float32)
    for n, m in ((2, 4), (3000, 5000), (1, 100)):
        expected = reference.nm_mask(weights, n, m, scores=scores)
        np.testing.assert_array_equal(prune.nm_mask(weights, n, m, scores=scores), expected)
        turned = prune.nm_mask(weights.T, n, m, axis=0, scores=scores.T)
        np.testing.assert_array_equal(turned, expected.T)


@pytest.mark.parametrize("shape", [(8, 16), (8, 18), (16, 8)])
def test_nm_mask_meets_nan_as_asked(shape):
    weights = np.ones(shape, np.float32)
    weights[1, 1] = math.nan
    with pytest.raises(mc.NonFiniteError, match="weights must not contain NaN"):
        prune.nm_mask(weights, 2, 4)
    last = np.ones(shape, np.float32)
    last[-1, -1] = math.nan
    with pytest.raises(mc.NonFiniteError):
        prune.nm_mask(last, 2, 4)
    first = prune.nm_mask(weights, 2, 4, nonfinite="prune_first")
    assert first[1, :4].tolist() == [True, False, True, False]
    assert prune.nm_mask(weights, 1, 4, nonfinite="keep")[1, :4].tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_random_mask_has_the_exact_count_and_follows_its_seed():
    mask = prune.random_mask((100, 300), 0.83, 5)
    assert prune.count_zeros(mask) == round(30_000 * 0.83)
    np.testing.assert_array_equal(mask, prune.random_mask((100, 300), 0.83, 5))
    other = prune.random_mask((100, 300), 0.83, 6)
    # Independent masks agree in 0.83^2 + 0.17^2 = 71.8 % of places; 6 standard deviations.
    share = np.mean(mask == other)
    assert abs(share - 0.7178) < 6 * math.sqrt(0.7178 * 0.2822 / 30_000)
    # Zeros of each row are hypergeometric; 6 standard deviations of the binomial bound it.
    assert np.abs((~mask).sum(1) - 249).max() < 6 * math.sqrt(300 * 0.83 * 0.17)
    assert not np.array_equal(mask, prune.random_mask((100, 300), 0.83, 2**64 - 1))
    with pytest.raises(mc.Error, match="seed must be in"):
        prune.random_mask(3, 0.5, -1)


# What is done with masks


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (65, 130), (0, 3)])
@pytest.mark.parametrize("packed", [False, True])
def test_apply_mask_writes_plain_zeros(dtype, shape, packed):
    weights = tensor(shape, "float32", seed=1).mul(100).to(getattr(torch, dtype))
    mask = torch.from_numpy(np.asarray(np.random.default_rng(2).random(shape) < 0.5))
    expected = torch.where(mask, weights, torch.zeros_like(weights))
    used = prune.pack_mask(mask) if packed else mask
    result = prune.apply_mask(weights, used)
    assert torch.equal(result, expected)
    assert prune.apply_mask(weights, used, out=weights) is weights
    assert torch.equal(weights, expected)


def test_apply_mask_clears_nan_and_signs():
    weights = np.array([math.nan, -math.inf, -0.0, -1.0], np.float32)
    result = prune.apply_mask(weights, np.zeros(4, bool))
    assert result.view(np.uint32).tolist() == [0, 0, 0, 0]
    kept = prune.apply_mask(weights, np.ones(4, bool))
    np.testing.assert_array_equal(kept.view(np.uint32), weights.view(np.uint32))


def test_apply_mask_works_on_strided_weights_in_place():
    base = np.random.default_rng(3).standard_normal((200, 300))
    view = base.T[::-2, 1:]
    mask = np.random.default_rng(4).random(view.shape) < 0.3
    expected = np.where(mask, view, 0.0)
    rest = base[:, 0].copy()
    assert prune.apply_mask(view, mask, out=view) is view
    np.testing.assert_array_equal(view, expected)
    np.testing.assert_array_equal(base[:, 0], rest)


def test_counting_zeros():
    weights = np.array([0.0, -0.0, math.nan, 1e-45, 5.0], np.float32)
    assert prune.count_zeros(weights) == 2
    assert prune.sparsity(weights) == 0.4
    mask = prune.magnitude_mask(tensor((1000, 100)), 0.8)
    assert prune.sparsity(mask) == 0.8
    assert prune.count_zeros(np.zeros(100_000, np.int8)) == 100_000
    assert prune.count_zeros(torch.zeros(70_000, dtype=torch.bfloat16)[::3]) == 23_334
    with pytest.raises(mc.Error, match="tensor must have at least one element"):
        prune.sparsity(np.zeros(0))


# Compatibility


@given(n=st.integers(1, 400), sparsity=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_compat_torch_is_l1_unstructured(n, sparsity, seed):
    # A permutation has no ties, which torch breaks arbitrarily.
    weights = 1 + torch.randperm(n, generator=torch.Generator().manual_seed(seed)).float()
    weights[::3] *= -1
    method = torch_prune.L1Unstructured(sparsity)
    expected = method.compute_mask(weights, torch.ones_like(weights)).bool()
    ours = prune.magnitude_mask(weights, sparsity, compat="torch")
    assert torch.equal(ours, expected)


def test_ties_are_the_difference_to_torch():
    equal = torch.ones(3, 3)
    theirs = torch_prune.L1Unstructured(4).compute_mask(equal, torch.ones_like(equal))
    ours = prune.magnitude_mask(equal, 4 / 9, compat="torch")
    assert prune.count_zeros(ours) == prune.count_zeros(theirs) == 4
    assert ours.flatten().tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize(
    ("weights", "sparsity", "expected"),
    [
        ([1, 1, 1, 1], 0.5, [True] * 4),
        ([0, 0, 0, 1], 0.5, [True] * 4),
        ([1, 2, 3, 4, 5], 0.5, [False, False, False, True, True]),
        ([1, 2, 3], 0.99, [False, False, True]),
        ([-3, 2, 3, 1], 0.75, [True, False, True, False]),
    ],
)
def test_compat_tfmot_keeps_all_ties_and_at_least_one(weights, sparsity, expected):
    mask = prune.magnitude_mask(np.array(weights, np.float32), sparsity, compat="tfmot")
    assert mask.tolist() == expected


@given(n=st.integers(1, 3000), sparsity=st.floats(0, 0.999), ties=st.booleans())
@settings(max_examples=100, deadline=None)
def test_compat_tfmot_follows_its_arithmetic(n, sparsity, ties):
    weights = as_numpy(tensor(n, seed=n, ties=ties)).astype(np.float32)
    mask = prune.magnitude_mask(weights, sparsity, compat="tfmot")
    expected = reference.magnitude_mask(weights, sparsity, compat="tfmot")
    np.testing.assert_array_equal(mask, expected)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda w: prune.magnitude_mask(w, 1.5),
            ValueError,
            r"^\[prune.magnitude_mask\] sparsity must be in \[0, 1\), got 1.5$",
        ),
        (lambda w: prune.magnitude_mask(w, 1.0), ValueError, "sparsity must be in .*got 1$"),
        (lambda w: prune.magnitude_mask(w, math.nan), ValueError, "sparsity must be in .*got nan"),
        (lambda w: prune.magnitude_mask(w, -0.1, compat="torch"), ValueError, r"in \[0, 1\] with"),
        (lambda w: prune.magnitude_mask(w.astype(int), 0.5), TypeError, "weights must be float64"),
        (lambda w: prune.magnitude_mask(w, 0.5, compat="jax"), ValueError, "compat must be None"),
        (lambda w: prune.magnitude_mask(w, 0.5, nonfinite="x"), ValueError, "nonfinite must be"),
        (
            lambda w: prune.magnitude_mask(w, 0.5, scores=w[0]),
            ValueError,
            r"scores must have the shape of weights, \(4, 6\), got \(6,\)",
        ),
        (lambda w: prune.magnitude_mask(w, 0.5, out=np.ones((4, 6))), TypeError, "out"),
        (lambda w: prune.magnitude_mask(w, 0.5, out=np.ones((6, 4), bool)), ValueError, "out"),
        (lambda w: prune.global_mask([w], 1.0), ValueError, "sparsity must be in"),
        (lambda w: prune.structured_mask(w, 0.5, axis=2), IndexError, r"axis must be in \[-2, 2\)"),
        (lambda w: prune.structured_mask(w, 0.5, ord=0), ValueError, "ord must be > 0, got 0"),
        (lambda w: prune.structured_mask(w[0, 0], 0.5), ValueError, "at least 1 dimension"),
        (lambda w: prune.block_mask(w, 0.5, (0, 1)), ValueError, "block rows must be >= 1, got 0"),
        (lambda w: prune.block_mask(w[0], 0.5, (1, 1)), ValueError, "at least 2 dimensions"),
        (lambda w: prune.block_mask(w, 0.5, (1, 1), "sum"), ValueError, "pooling must be mean or"),
        (lambda w: prune.nm_mask(w, 5, 4), ValueError, r"n must be in \[1, m\], got 5"),
        (lambda w: prune.nm_mask(w, 0, 4), ValueError, r"n must be in \[1, m\], got 0"),
        (lambda w: prune.nm_mask(w, 1, 0), ValueError, "m must be >= 1, got 0"),
        (lambda w: prune.random_mask((2, -1), 0.5, 0), ValueError, "shape must not be negative"),
        (lambda w: prune.apply_mask(w, np.ones(6, bool)), ValueError, "mask must have the shape"),
        (lambda w: prune.apply_mask(w, np.ones((4, 6))), TypeError, "mask must be bool, or uint8"),
        (lambda w: prune.pack_mask(w), TypeError, "mask must be bool"),
        (lambda w: prune.unpack_mask(np.zeros(2, np.uint8), 24), ValueError, "packed"),
        (lambda w: prune.magnitude_mask("weights", 0.5), TypeError, "magnitude_mask"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    weights = np.arange(24, dtype=np.float32).reshape(4, 6)
    before = weights.copy()
    with pytest.raises(error, match=message):
        call(weights)
    np.testing.assert_array_equal(weights, before)


def test_outputs_may_not_overlap_their_inputs():
    memory = np.ones(64, np.uint8)
    weights = memory.view(np.float32)
    out = memory[:16].view(bool)
    with pytest.raises(mc.Error, match="overlap"):
        prune.magnitude_mask(weights, 0.5, out=out)
    assert memory.all()
    line = np.ones(20)
    with pytest.raises(mc.Error, match="overlap"):
        prune.apply_mask(line[:10], np.zeros(10, bool), out=line[5:15])
    assert line.all()


def test_masks_of_one_call_do_not_share_memory() -> None:
    weights = np.ones((2, 3), np.float32)
    mask = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"masks\[1\] must not share memory with masks\[0\]"):
        mc.prune.global_mask([weights, weights], 0.5, out=[mask, mask])
    assert mask.all()


def test_what_is_no_array_or_shape_is_named() -> None:
    with pytest.raises(TypeError, match=r"weights\[1\] must be an array, got NoneType"):
        mc.prune.global_mask([np.ones(3, np.float32), None], 0.5)
    with pytest.raises(TypeError, match=r"shape must be whole numbers .* got \(4.5,\)"):
        mc.prune.random_mask((4.5,), 0.5, 0)
    with pytest.raises(ValueError, match="one bit an element of"):
        mc.prune.unpack_mask(np.zeros(2, np.uint8), (2**61,))
