# SPDX-License-Identifier: Apache-2.0
"""moptcore.torch.prune beside torch.nn.utils.prune: the same masks, none of the damage."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import math
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import moptcore
import moptcore.torch as mct
import moptcore.torch.prune as ours
import numpy as np
import pytest
import torch
import torch.nn.utils.prune as peer
from torch import nn
from torch.nn import functional as F  # noqa: N812

NAMES = sorted(
    name for name, value in vars(peer).items() if getattr(value, "__module__", "") == peer.__name__
)
BOTH = pytest.mark.parametrize("prune", [peer, ours], ids=["torch", "moptcore"])


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    # Threads that wait by spinning make small tensors slow on a busy machine.
    threads = torch.get_num_threads(), moptcore.get_num_threads()
    torch.set_num_threads(1)
    moptcore.set_num_threads(1)
    torch.manual_seed(0)
    yield
    ours.set_compat(None)
    torch.set_num_threads(threads[0])
    moptcore.set_num_threads(threads[1])


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 5 * 5, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def pair(make: Callable[[], nn.Module] = LeNet) -> tuple[nn.Module, nn.Module]:
    model = make()
    return model, copy.deepcopy(model)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 28, 28, generator=generator)
    return x, torch.randint(0, 10, (8,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> torch.Tensor:
    x, y = batch(seed)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def pruned_linear(amount: float = 0.5, inputs: int = 8, outputs: int = 4) -> nn.Linear:
    module = nn.Linear(inputs, outputs)
    ours.l1_unstructured(module, "weight", amount)
    return module


def zeros_hold(module: nn.Module, name: str = "weight") -> bool:
    mask, weight = getattr(module, name + "_mask"), getattr(module, name)
    return bool((weight[mask == 0] == 0).all()) and bool((mask == 0).any())


# What there is


def test_every_name_of_torch_is_there_with_its_arguments_in_their_places() -> None:
    assert len(NAMES) > 20
    for name in NAMES:
        theirs, mine = getattr(peer, name), getattr(ours, name)
        found = mine.__init__ if isinstance(theirs, type) else mine
        wanted = theirs.__init__ if isinstance(theirs, type) else theirs
        _takes_the_same(wanted, found, name)
        if isinstance(theirs, type):
            assert issubclass(mine, peer.BasePruningMethod)
            for method in ("apply", "apply_mask", "compute_mask", "prune", "remove"):
                _takes_the_same(getattr(theirs, method), getattr(mine, method), f"{name}.{method}")
            assert getattr(mine, "PRUNING_TYPE", None) == getattr(theirs, "PRUNING_TYPE", None)


def _takes_the_same(wanted: Any, found: Any, name: str) -> None:
    parameters = dict(inspect.signature(found).parameters)
    parameters.pop("compat", None)
    for given, asked in zip(
        parameters.values(), inspect.signature(wanted).parameters.values(), strict=True
    ):
        assert (given.name, given.kind, given.default) == (asked.name, asked.kind, asked.default), (
            name
        )


def test_the_base_class_is_abstract_as_torch_s() -> None:
    for prune in (peer, ours):
        with pytest.raises(TypeError, match="compute_mask"):
            prune.BasePruningMethod()


# Masks


def shapes(seed: int) -> Iterator[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    for _ in range(12):
        yield tuple(int(size) for size in generator.integers(1, 7, generator.integers(1, 5)))
    yield (512, 300)
    yield (16, 8, 3, 3)


AMOUNTS: tuple[float, ...] = (0, 1, 0.0, 0.1, 0.25, 0.5, 0.77, 1.0)


def same_weights(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Two modules with the same weight, all magnitudes different (and so no ties)."""
    count = math.prod(shape)
    # 16-bit floats hold so many different numbers in this form.
    values = torch.randperm(count) + 1 if dtype.itemsize > 2 else torch.randn(count)
    signs = torch.randint(0, 2, (count,)) * 2 - 1
    weight = (values * signs).to(dtype).reshape(shape)
    modules = nn.Module(), nn.Module()
    for module in modules:
        module.weight = nn.Parameter(weight.clone())
    return modules


def outcome(call: Callable[[], Any]) -> type | None:
    try:
        call()
    except Exception as error:
        return type(error)
    return None


def same_outcome(theirs: Callable[[], Any], mine: Callable[[], Any], what: Any) -> bool:
    """Whether both succeed; both must fail with the same kind of error otherwise."""
    wanted, found = outcome(theirs), outcome(mine)
    assert (wanted is None) == (found is None), (what, wanted, found)
    assert wanted is None or issubclass(found, wanted), (what, wanted, found)
    return wanted is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_masks_and_their_compounding_have_the_bits_of_torch(dtype: torch.dtype) -> None:
    pruned = 0
    for shape in shapes(1):
        for first in AMOUNTS:
            theirs, mine = same_weights(shape, dtype)
            for amount in (first, 0.5, 0.25, 1):
                done = same_outcome(
                    lambda: peer.l1_unstructured(theirs, "weight", amount),  # noqa: B023
                    lambda: ours.l1_unstructured(mine, "weight", amount),  # noqa: B023
                    (shape, amount),
                )
                if not done:
                    break
                assert mine.weight_mask.dtype == theirs.weight_mask.dtype
                assert torch.equal(mine.weight_mask, theirs.weight_mask), (shape, amount)
                assert torch.equal(mine.weight, theirs.weight)
                pruned += 1
    assert pruned > 200


@pytest.mark.parametrize("n", [1, 2, 3, 0.5, 0, math.inf, -math.inf, "fro"])
def test_ln_masks_have_the_bits_of_torch_along_every_dimension(n: Any) -> None:
    pruned = 0
    for shape in shapes(2):
        for dim in range(-len(shape) - 1, len(shape) + 1):
            for amount in (1, 0.3, 0.5):
                theirs, mine = same_weights(shape, torch.float32)
                for module in (theirs, mine):
                    generator = torch.Generator().manual_seed(5)
                    module.weight.data = torch.randn(shape, generator=generator)
                norms = _norms(theirs.weight.detach(), n, dim)
                for _ in range(2):
                    done = same_outcome(
                        lambda: peer.ln_structured(theirs, "weight", amount, n, dim),  # noqa: B023
                        lambda: ours.ln_structured(mine, "weight", amount, n, dim),  # noqa: B023
                        (shape, dim, amount, n),
                    )
                    if not done or norms is None or norms.unique().numel() < norms.numel():
                        break  # ties: torch's choice is arbitrary
                    assert torch.equal(mine.weight_mask, theirs.weight_mask), (shape, dim, amount)
                    pruned += 1
    assert pruned > (30 if n != 0 else -1)


def _norms(weight: torch.Tensor, n: Any, dim: int) -> torch.Tensor | None:
    if weight.dim() < 2 or not -weight.dim() <= dim < weight.dim():
        return None
    others = [axis for axis in range(weight.dim()) if axis != dim % weight.dim()]
    if n == "fro" and len(others) > 2:
        return None  # torch has no such norm
    return torch.norm(weight, p=n, dim=others)


def test_random_masks_are_those_of_torch_for_the_same_seed() -> None:
    for shape in shapes(3):
        for amount in AMOUNTS:
            for kind in ("random_unstructured", "random_structured"):
                extra = () if kind == "random_unstructured" else (0,)
                theirs, mine = same_weights(shape, torch.float32)
                for seed in (1, 2):
                    states = []

                    def run(prune: ModuleType, module: nn.Module) -> None:
                        torch.manual_seed(seed)  # noqa: B023
                        getattr(prune, kind)(module, "weight", amount, *extra)  # noqa: B023
                        states.append(torch.get_rng_state())  # noqa: B023

                    if not same_outcome(
                        lambda: run(peer, theirs),  # noqa: B023
                        lambda: run(ours, mine),  # noqa: B023
                        (shape, amount, kind),
                    ):
                        break
                    assert torch.equal(mine.weight_mask, theirs.weight_mask), (shape, amount, kind)
                    assert torch.equal(*states)


def test_equal_scores_keep_the_lowest_index_where_torch_picks_arbitrarily() -> None:
    module = nn.Linear(3, 3)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ours.l1_unstructured(module, "weight", 4)
    assert module.weight_mask.flatten().tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    theirs = nn.Linear(3, 3)
    with torch.no_grad():
        theirs.weight.fill_(1.0)
    peer.l1_unstructured(theirs, "weight", 4)
    assert theirs.weight_mask.sum() == 5
    assert theirs.weight_mask.flatten().tolist() != module.weight_mask.flatten().tolist()
    channels = nn.Linear(3, 4)
    with torch.no_grad():
        channels.weight.fill_(1.0)
    ours.ln_structured(channels, "weight", 2, 2, 0)
    assert channels.weight_mask[:, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_dtypes_lose_their_smallest_magnitudes(dtype: torch.dtype) -> None:
    weight = torch.randn(40, 5, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    module = nn.Module()
    module.weight = nn.Parameter(weight.to(dtype))
    ours.l1_unstructured(module, "weight", 0.3)
    kept = module.weight_mask.real != 0 if dtype.is_complex else module.weight_mask != 0
    assert int((~kept).sum()) == 60
    size = module.weight.detach().abs().float()
    assert size[kept].min() >= weight.to(dtype).abs().float()[~kept].max()
    assert module.weight_mask.dtype == dtype


def test_nan_and_infinity_rank_as_in_torch() -> None:
    values = torch.tensor([[math.nan, 1.0, math.inf, -3.0, math.nan, 0.5]])
    for amount in range(7):
        theirs, mine = nn.Linear(6, 1), nn.Linear(6, 1)
        for prune, module in ((peer, theirs), (ours, mine)):
            module.weight.data = values.clone()
            prune.l1_unstructured(module, "weight", amount)
        if amount != 5:  # torch may drop either NaN
            assert torch.equal(mine.weight_mask, theirs.weight_mask), amount
        # A product keeps NaN where it prunes.
        assert bool((mine.weight[mine.weight_mask == 0] == 0).all())
    assert mine.weight.isfinite().all()
    assert theirs.weight.isnan().any()


def test_importance_scores_are_ranked_instead_of_the_weights() -> None:
    theirs, mine = pair(lambda: nn.Linear(7, 5))
    for scores in (torch.randperm(35).float().reshape(5, 7), torch.randn(5, 7, dtype=torch.double)):
        for prune, module in ((peer, theirs), (ours, mine)):
            prune.l1_unstructured(module, "weight", 0.4, importance_scores=scores)
        assert torch.equal(mine.weight_mask, theirs.weight_mask)
        assert mine.weight_mask.dtype == theirs.weight_mask.dtype
    scores = torch.arange(35.0).reshape(5, 7) - 17
    for prune, module in ((peer, theirs), (ours, mine)):
        prune.ln_structured(module, "weight", 1, 2, 1, importance_scores=scores)
    assert torch.equal(mine.weight_mask, theirs.weight_mask)


def test_mixed_methods_compound_as_in_torch() -> None:
    theirs, mine = pair()
    for prune, model in ((peer, theirs), (ours, mine)):
        torch.manual_seed(7)
        prune.random_unstructured(model.conv1, "weight", 0.3)
        prune.ln_structured(model.conv1, "weight", 0.5, n=2, dim=0)
        prune.l1_unstructured(model.conv1, "bias", 3)
        prune.identity(model.conv1, "bias")
        prune.random_structured(model.fc1, "weight", 0.5, dim=1)
        prune.l1_unstructured(model.fc1, "weight", 0.5)
        prune.custom_from_mask(model.fc2, "weight", torch.arange(240).reshape(10, 24) % 3 > 0)
        prune.ln_structured(model.fc2, "weight", 4, 1, -2)
    for layer, name in [
        ("conv1", "weight"),
        ("conv1", "bias"),
        ("fc1", "weight"),
        ("fc2", "weight"),
    ]:
        mask = getattr(getattr(mine, layer), name + "_mask")
        assert torch.equal(mask, getattr(getattr(theirs, layer), name + "_mask")), (layer, name)
    history = [
        hook for hook in mine.fc2._forward_pre_hooks.values() if hook._tensor_name == "weight"
    ]
    assert [type(method).__name__ for method in history[0]] == ["CustomFromMask", "LnStructured"]
    assert isinstance(history[0], ours.PruningContainer)
    assert len(history[0]) == 2
    assert history[0][1].amount == 4


def test_global_pruning_ranks_all_parameters_as_one() -> None:
    theirs, mine = pair()
    for amount in (0.2, 100, 0.5):
        for prune, model in ((peer, theirs), (ours, mine)):
            chosen = [(model.conv1, "weight"), (model.conv2, "weight"), (model.fc1, "bias")]
            scores = {(model.conv1, "weight"): model.conv1.weight.detach() * 3}
            prune.global_unstructured(
                chosen, prune.L1Unstructured, importance_scores=scores, amount=amount
            )
            torch.manual_seed(3)
            prune.global_unstructured(chosen, prune.RandomUnstructured, amount=0.1)
        for layer, name in [("conv1", "weight"), ("conv2", "weight"), ("fc1", "bias")]:
            mask = getattr(getattr(mine, layer), name + "_mask")
            assert torch.equal(mask, getattr(getattr(theirs, layer), name + "_mask"))
    # A generator, of which torch sees the first pass only, and torch's own method.
    pairs = ((module, "weight") for module in (mine.fc1, mine.fc2))
    ours.global_unstructured(pairs, peer.L1Unstructured, amount=0.5)
    zeros = int((mine.fc1.weight == 0).sum() + (mine.fc2.weight == 0).sum())
    assert zeros == (mine.fc1.weight.numel() + mine.fc2.weight.numel()) // 2


@BOTH
def test_methods_work_on_tensors_and_own_methods_can_be_written(prune: ModuleType) -> None:
    class EveryOther(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    t = torch.tensor([3.0, -1.0, 2.0, 0.5])
    assert prune.L1Unstructured(2).prune(t).tolist() == [3, 0, 2, 0]
    mask = torch.tensor([0.0, 1, 1, 1])
    assert prune.L1Unstructured(1).prune(t, default_mask=mask).tolist() == [0, -1, 2, 0]
    assert prune.L1Unstructured(1).prune(t, importance_scores=-t).tolist() == [3, -1, 2, 0]
    module = nn.Linear(4, 4)
    EveryOther.apply(module, "bias")
    assert module.bias_mask.tolist() == [0, 1, 0, 1]
    EveryOther.apply(module, "bias")
    assert module.bias_mask.tolist() == [0, 0, 0, 1]
    container = prune.PruningContainer()
    container._tensor_name = "temp"
    method = prune.L1Unstructured(0.5)
    method._tensor_name = "temp"
    container.add_pruning_method(method)
    found = container.compute_mask(t, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert found.tolist() == [1, 0, 0, 0] or found.tolist() == [1, 0, 1, 0]


# Errors


class Odd(nn.Linear):
    """A weight that is no parameter."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        del self.weight
        self.weight = torch.ones(2, 3)


def _without_dim(prune: ModuleType) -> Any:
    class NoDim(prune.BasePruningMethod):
        PRUNING_TYPE = "structured"

        def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
            return default_mask

    return NoDim


def _unknown_type(prune: ModuleType) -> Any:
    class Unknown(_without_dim(prune)):
        PRUNING_TYPE = "other"

    return Unknown


def _twice(prune: ModuleType, method: Any) -> None:
    module = prune.identity(nn.Linear(3, 2), "weight")
    method.apply(module, "weight")


def _two_hooks(prune: ModuleType) -> None:
    module = prune.identity(nn.Linear(3, 2), "weight")
    hook = prune.Identity()
    hook._tensor_name = "weight"
    module.register_forward_pre_hook(hook)
    prune.identity(module, "weight")


def _foreign_method(prune: ModuleType) -> None:
    container = prune.PruningContainer()
    container._tensor_name = "weight"
    method = prune.Identity()
    method._tensor_name = "bias"
    container.add_pruning_method(method)


WRONG: dict[str, Callable[[ModuleType], Any]] = {
    "amount is text": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", "half"),
    "amount is a tensor": lambda p: p.RandomUnstructured(torch.tensor(0.5)),
    "amount is None": lambda p: p.random_structured(nn.Linear(3, 2), "weight", None, 0),
    "amount < 0": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", -1),
    "share < 0": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", -0.1),
    "share > 1": lambda p: p.ln_structured(nn.Linear(3, 2), "weight", 1.1, 2, 0),
    "share is NaN": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", math.nan),
    "more weights than there are": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", 7),
    "more at random": lambda p: p.random_unstructured(nn.Linear(3, 2), "weight", 7),
    "more channels": lambda p: p.ln_structured(nn.Linear(3, 2), "weight", 3, 2, 0),
    "more random channels": lambda p: p.random_structured(nn.Linear(3, 2), "weight", 3, 0),
    "more than are left": lambda p: [
        p.l1_unstructured(module, "weight", 4) for module in [nn.Linear(3, 2)] * 2
    ],
    "no such parameter": lambda p: p.l1_unstructured(nn.Linear(3, 2), "wait", 0.5),
    "no bias": lambda p: p.l1_unstructured(nn.Linear(3, 2, bias=False), "bias", 0.5),
    "no parameter": lambda p: p.l1_unstructured(Odd(), "weight", 0.5),
    "a vector has no channels": lambda p: p.ln_structured(nn.Linear(3, 2), "bias", 1, 2, 0),
    "nor random ones": lambda p: p.random_structured(nn.Linear(3, 2), "bias", 1, 0),
    "dim too large": lambda p: p.ln_structured(nn.Linear(3, 2), "weight", 1, 2, 2),
    "dim too small": lambda p: p.ln_structured(nn.Linear(3, 2), "weight", 1, 2, -3),
    "random dim too large": lambda p: p.random_structured(nn.Linear(3, 2), "weight", 1, 5),
    "scores of another shape": lambda p: p.l1_unstructured(
        nn.Linear(3, 2), "weight", 1, importance_scores=torch.ones(3, 2)
    ),
    "scores of another shape for a tensor": lambda p: p.L1Unstructured(1).prune(
        torch.ones(3), importance_scores=torch.ones(2)
    ),
    "mask of another shape": lambda p: p.custom_from_mask(
        nn.Linear(3, 2), "weight", torch.ones(3, 2)
    ),
    "remove without pruning": lambda p: p.remove(nn.Linear(3, 2), "weight"),
    "remove another name": lambda p: p.remove(p.identity(nn.Linear(3, 2), "bias"), "weight"),
    "global without parameters": lambda p: p.global_unstructured([], p.L1Unstructured, amount=1),
    "global of a number": lambda p: p.global_unstructured(3, p.L1Unstructured, amount=1),
    "global scores as a list": lambda p: p.global_unstructured(
        [(nn.Linear(3, 2), "weight")], p.L1Unstructured, importance_scores=[], amount=1
    ),
    "global structured": lambda p: p.global_unstructured(
        [(nn.Linear(3, 2), "weight")], p.LnStructured, amount=1, n=2
    ),
    "global too many": lambda p: p.global_unstructured(
        [(nn.Linear(3, 2), "weight")], p.L1Unstructured, amount=7
    ),
    "global with an unknown argument": lambda p: p.global_unstructured(
        [(nn.Linear(3, 2), "weight")], p.L1Unstructured, quantity=7
    ),
    "no method": lambda p: p.PruningContainer().add_pruning_method("prune"),
    "a method of another parameter": _foreign_method,
    "two hooks": _two_hooks,
    "structured without dim": lambda p: _twice(p, _without_dim(p)),
    "unknown type": lambda p: _twice(p, _unknown_type(p)),
    "missing argument": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight"),
    "unknown argument": lambda p: p.l1_unstructured(nn.Linear(3, 2), "weight", 1, colour=2),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_torch_refuses_is_refused_with_the_same_type_of_error(what: str) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        WRONG[what](peer)
    with pytest.raises(type(theirs.value)) as mine:
        WRONG[what](ours)
    # Numbers and names that torch tells are told here too.
    told = str(mine.value)
    for value in ("amount=-0.1", "amount=7", "'weight' of", "PRUNING_TYPE", "importance_scores"):
        if value in str(theirs.value):
            for part in value.replace("' of", "'").split("="):
                assert part in told, (value, told)


ODD_AMOUNTS = [
    True, False, np.True_, np.int64(2), np.uint8(2), np.float32(0.5), Fraction(1, 2),
    Fraction(3, 2), Decimal("0.5"), None, "0.5", [0.5], 1j, math.nan, math.inf, -math.inf, -0.0,
    torch.tensor(2), torch.tensor(0.5), -1, 1.5, 10**30, 1, 1.0, 0,
]  # fmt: skip


@pytest.mark.parametrize("amount", ODD_AMOUNTS, ids=repr)
@pytest.mark.parametrize(
    "prune",
    [
        lambda p, m, amount: p.l1_unstructured(m, "weight", amount),
        lambda p, m, amount: p.random_unstructured(m, "weight", amount),
        lambda p, m, amount: p.random_structured(m, "weight", amount, 0),
        lambda p, m, amount: p.ln_structured(m, "weight", amount, 2, 0),
        lambda p, m, amount: p.global_unstructured(
            [(m, "weight"), (m, "bias")], p.L1Unstructured, amount=amount
        ),
        lambda p, m, amount: p.global_unstructured(
            [(m, "weight"), (m, "bias")], p.RandomUnstructured, amount=amount
        ),
    ],
)
def test_odd_amounts_prune_as_many_or_raise_the_error_of_torch(
    prune: Callable[[ModuleType, nn.Module, Any], Any], amount: Any
) -> None:
    theirs, mine = pair(lambda: nn.Linear(4, 6))
    try:
        prune(peer, theirs, amount)
    except Exception as error:  # whatever torch raises
        with pytest.raises(type(error)):
            prune(ours, mine, amount)
        assert not ours.is_pruned(mine)
    else:
        prune(ours, mine, amount)
        kept = [
            sum(
                int(getattr(m, name).sum())
                for name in ("weight_mask", "bias_mask")
                if hasattr(m, name)
            )
            for m in (theirs, mine)
        ]
        assert kept[0] == kept[1]


def test_a_fresh_module_loads_the_zeros_and_keeps_them_after_identity_only() -> None:
    state = pruned_linear().state_dict()
    fresh, protected = nn.Linear(8, 4), nn.Linear(8, 4)
    ours.identity(protected, "weight")
    for module in (fresh, protected):
        module.load_state_dict(state)
        module.weight.grad = torch.ones_like(module.weight)
        assert int((module.weight == 0).sum()) == 16
        torch.optim.SGD(module.parameters(), 0.5).step()
    assert not ours.is_pruned(fresh)
    assert int((fresh.weight == 0).sum()) == 0
    assert int((protected.weight == 0).sum()) == 16


def test_a_second_pruning_that_fails_leaves_the_first_one_as_it_was() -> None:
    theirs, mine = pair(lambda: nn.Linear(8, 4))
    for prune, module in ((peer, theirs), (ours, mine)):
        prune.l1_unstructured(module, "weight", 0.5)
        before = module.weight.detach().clone()
        with pytest.raises(ValueError, match="100"):
            prune.l1_unstructured(module, "weight", 100)
        assert torch.equal(module.weight, before)
    assert not theirs._forward_pre_hooks  # torch has lost its hook: weights regrow
    assert len(mine._forward_pre_hooks) == 1
    assert ours.is_pruned(mine)
    ours.l1_unstructured(mine, "weight", 0.5)
    assert int(mine.weight_mask.sum()) == 8


def test_a_mask_of_other_numbers_is_refused_unless_torch_s_layout_is_asked_for() -> None:
    class Half(ours.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
            return default_mask * 0.5

    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match=r"\[torch.prune.Half.apply\] mask must hold zeros"):
        Half.apply(module, "weight")
    assert torch.equal(module.weight, before)
    Half.apply(module, "weight", compat="torch")
    assert torch.equal(module.weight, before * 0.5)
    with pytest.raises(ValueError, match="compat must be None or 'torch', got 'tf'"):
        ours.l1_unstructured(module, "weight", 1, compat="tf")
    with pytest.raises(ValueError, match="compat must be None or 'torch', got 'tf'"):
        ours.set_compat("tf")


# The module


def test_the_module_is_what_it_was_and_torch_s_is_not() -> None:
    theirs, mine = pair()
    names = [name for name, _ in mine.named_parameters()]
    keys = list(mine.state_dict())
    parameter = mine.conv1.weight
    sizes = {}
    for prune, model in ((peer, theirs), (ours, mine)):
        for module in (model.conv1, model.conv2, model.fc1, model.fc2):
            prune.l1_unstructured(module, "weight", 0.5)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        sizes[prune] = len(file.getvalue())
    assert [name for name, _ in theirs.named_parameters()] != names
    assert list(theirs.state_dict()) != keys
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(theirs)
    assert not theirs.conv1.weight.is_leaf
    assert [name for name, _ in mine.named_parameters()] == names
    assert list(mine.state_dict()) == keys
    assert not list(mine.named_buffers())
    assert type(mine.conv1) is nn.Conv2d
    assert mine.conv1.weight is parameter
    assert mine.conv1.weight.is_leaf
    assert isinstance(mine.conv1.weight, nn.Parameter)
    assert mine.conv1.weight_orig is parameter
    dense = io.BytesIO()
    torch.save(LeNet().state_dict(), dense)
    weights = sum(each.weight.numel() for each in (mine.conv1, mine.conv2, mine.fc1, mine.fc2))
    # One bit a weight, and a zip entry of less than 500 bytes for each mask.
    assert sizes[ours] - len(dense.getvalue()) < weights / 8 + 4 * 500
    # A mask of four bytes a weight.
    assert sizes[peer] - len(dense.getvalue()) > 4 * weights


def _trained(model: nn.Module, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(steps):
        train_step(model, optimizer, step)
    return optimizer


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_pruned_as_the_module_is_and_stay_so_in_training(way: str) -> None:
    model = LeNet()
    optimizer = _trained(model)  # momentum that would move pruned weights
    for module in (model.conv1, model.fc1):
        ours.l1_unstructured(module, "weight", 0.6)
        ours.ln_structured(module, "weight", 0.25, 2, 0)
    if way == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    elif way == "pickle":
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        file = io.BytesIO()
        torch.save((model, optimizer), file)
        file.seek(0)
        twin, other = torch.load(file, weights_only=False)
    assert twin.conv1.weight_orig is twin.conv1.weight is not model.conv1.weight
    for step in range(10, 14):
        train_step(model, optimizer, step)
        train_step(twin, other, step)
        for module in (twin.conv1, twin.fc1):
            assert zeros_hold(module)
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    ours.l1_unstructured(twin.fc1, "weight", 0.5)
    assert not torch.equal(twin.fc1.weight_mask, model.fc1.weight_mask)
    assert torch.equal(model.fc1.weight_mask == 0, model.fc1.weight == 0)
    ours.remove(twin.fc1, "weight")
    assert ours.is_pruned(model.fc1)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_holds_its_zeros_before_it_ever_ran(way: str) -> None:
    module = pruned_linear()
    twin = copy.deepcopy(module) if way == "deepcopy" else pickle.loads(pickle.dumps(module))
    (twin.weight**2).sum().backward()
    twin.weight.grad += 1
    torch.optim.Adam(twin.parameters(), lr=0.1).step()
    assert zeros_hold(twin)
    assert int((twin.weight == 0).sum()) == 16


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "Fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_has_the_bits_of_torch_s_and_zeros_hold_after_each_step(name: str) -> None:
    theirs, mine = pair()
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in (theirs, mine)]
    for step in range(7):
        x, y = batch(step)
        for prune, model, optimizer in zip((peer, ours), (theirs, mine), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if step in (2, 4):  # as the gradual pruner of the tutorials: momentum is there already
                for module in (model.conv2, model.fc1):
                    prune.l1_unstructured(module, "weight", 0.4)
                prune.ln_structured(model.conv1, "weight", 0.3, 2, 0)
            optimizer.step()
            if prune is ours and step >= 2:
                assert all(zeros_hold(each) for each in (mine.conv1, mine.conv2, mine.fc1))
    x, _ = batch(99)
    with torch.no_grad():
        assert torch.equal(theirs(x), mine(x))
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        assert torch.equal(getattr(theirs, layer).weight, getattr(mine, layer).weight), layer
        assert torch.equal(getattr(theirs, layer).bias, getattr(mine, layer).bias), layer


def test_scores_are_the_weights_of_now_where_torch_takes_those_of_the_last_forward_pass() -> None:
    theirs, mine = pair(lambda: nn.Linear(4, 1, bias=False))
    for prune, module in ((peer, theirs), (ours, mine)):
        module.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        prune.l1_unstructured(module, "weight", 1)
        with torch.no_grad():
            module.weight_orig.copy_(torch.tensor([[0.0, 9.0, 0.1, 8.0]]))
        prune.l1_unstructured(module, "weight", 1)
    assert theirs.weight_mask.tolist() == [[0, 0, 1, 1]]
    assert mine.weight_mask.tolist() == [[0, 1, 0, 1]]


def test_gradients_are_those_of_torch() -> None:
    theirs, mine = pair(lambda: nn.Linear(6, 3))
    x = torch.randn(5, 6)
    for prune, module in ((peer, theirs), (ours, mine)):
        prune.l1_unstructured(module, "weight", 0.5)
        module(x).square().sum().backward()
    assert torch.equal(theirs.weight_orig.grad, mine.weight.grad)
    assert mine.weight_orig.grad is mine.weight.grad
    found = torch.autograd.grad(mine(x).square().sum(), mine.weight)[0]
    assert torch.equal(found, mine.weight.grad)
    first = torch.autograd.grad(mine(x).square().sum(), mine.weight, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), mine.weight)[0]
    assert bool((second[mine.weight_mask == 0] == 0).all())
    assert bool((second != 0).any())
    batched = torch.autograd.grad(
        mine(x), mine.weight, torch.eye(15).reshape(15, 5, 3), is_grads_batched=True
    )[0]
    assert bool((batched[:, mine.weight_mask == 0] == 0).all())


def test_sparse_gradients_of_embeddings_are_masked() -> None:
    module = nn.Embedding(10, 4, sparse=True)
    ours.l1_unstructured(module, "weight", 0.5)
    optimizer = torch.optim.SparseAdam(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.tensor([1, 3, 3, 9])).sum().backward()
        assert module.weight.grad.layout == torch.sparse_coo
        dense = module.weight.grad.to_dense()
        expected = torch.tensor([0.0, 1, 0, 2, 0, 0, 0, 0, 0, 1]).unsqueeze(1) * module.weight_mask
        assert torch.equal(dense, expected)
        optimizer.step()
        assert zeros_hold(module)


def test_any_way_to_write_is_undone_before_the_weights_are_used() -> None:
    module, x = pruned_linear(), torch.ones(1, 8)
    expected = F.linear(x, module.weight, module.bias)
    kept = module.weight.detach().clone()

    def write(change: Callable[[], Any]) -> None:
        change()
        with torch.no_grad():
            module.weight.copy_(torch.where(module.weight_mask == 1, kept, module.weight))
        assert torch.equal(module(x), expected)
        assert zeros_hold(module)

    write(lambda: module.weight.data.add_(1.0))
    write(lambda: module.weight_orig.data.fill_(3.0))
    write(lambda: setattr(module, "weight", nn.Parameter(torch.full((4, 8), 2.0))))
    assert module.weight_orig is module.weight
    module.weight_orig = nn.Parameter(module.weight.detach() + module.weight_mask * 2 - 2)
    with torch.no_grad():
        module.weight_orig[module.weight_mask == 1] = kept[module.weight_mask == 1]
    write(lambda: module(x))
    assert list(dict(module.named_parameters())) == ["weight", "bias"]
    write(lambda: setattr(module.weight, "data", torch.full((4, 8), math.nan)))
    module.eval()
    write(lambda: module.weight.data.normal_())
    with torch.inference_mode():
        write(lambda: module.weight.data.normal_())


def test_a_mask_that_the_user_sets_holds() -> None:
    module = pruned_linear()
    mask = torch.ones(4, 8)
    mask[1] = 0
    module.weight_mask = mask
    module(torch.ones(1, 8)).sum().backward()
    assert not module.weight[1].any()
    assert not module.weight.grad[1].any()
    module.weight_mask[2] = 0
    module(torch.ones(1, 8))
    assert not module.weight[1:3].any()


def test_autograd_is_told_of_a_pruning_but_not_of_zeros_that_were_there() -> None:
    module, x = pruned_linear(), torch.randn(3, 8)
    # The same weights twice in one graph.
    (module(x).sum() + module(x * 2).sum()).backward()
    assert zeros_hold(module)
    x.requires_grad_()
    y = module(x)
    ours.l1_unstructured(module, "weight", 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_frozen_weights_are_pruned_and_guarded_once_they_thaw() -> None:
    module = nn.Linear(8, 4)
    module.weight.requires_grad_(False)
    ours.l1_unstructured(module, "weight", 0.5)
    module.weight.requires_grad_(True)
    module(torch.ones(1, 8)).sum().backward()
    assert torch.equal(module.weight.grad, module.weight_mask)


def test_tied_parameters_stay_tied_where_torch_s_part() -> None:
    def tied(prune: ModuleType) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        prune.l1_unstructured(model[0], "weight", 0.5)
        return model

    assert tied(peer)[0].weight is not tied(peer)[1].weight
    model = tied(ours)
    assert model[0].weight is model[1].weight
    ours.l1_unstructured(model[1], "weight", 0.5)
    assert torch.equal(model[0].weight_mask, model[1].weight_mask)
    twin = copy.deepcopy(model)
    assert twin[0].weight is twin[1].weight


# State


def test_a_checkpoint_holds_the_mask_and_resuming_equals_not_having_stopped() -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = LeNet()
        return model, torch.optim.Adam(model.parameters(), 0.01)

    model, optimizer = fresh()
    _trained(model, 1)
    for module in (model.conv1, model.fc1):
        ours.l1_unstructured(module, "weight", 0.7)
    with torch.no_grad():  # a kept weight that happens to be zero is no pruned one
        model.fc1.weight[model.fc1.weight_mask == 1] = 0.0
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, moments = torch.load(file, weights_only=True)
    again, other = fresh()
    for module in (again.conv1, again.fc1):
        ours.identity(module, "weight")  # torch's layout asks for the same
    assert not again.load_state_dict(weights).missing_keys
    other.load_state_dict(moments)
    for step in range(5):
        train_step(model, optimizer, step)
        train_step(again, other, step)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert torch.equal(model.fc1.weight_mask, again.fc1.weight_mask)


def test_loading_dense_weights_keeps_the_mask() -> None:
    dense = nn.Linear(8, 4)
    module = pruned_linear()
    mask = module.weight_mask.clone()
    for assign in (False, True):
        module.load_state_dict(copy.deepcopy(dense).state_dict(), assign=assign)
        assert torch.equal(module.weight, dense.weight * mask)
        assert module.weight_orig is module.weight
        (module(torch.ones(1, 8)).sum()).backward()
        assert torch.equal(module.weight.grad, mask)
        module.weight.grad = None
    plain = nn.Linear(8, 4)
    plain.load_state_dict(module.state_dict())
    assert torch.equal(plain.weight, module.weight)


def test_checkpoints_of_torch_s_layout_load() -> None:
    theirs, mine = pair()
    peer.l1_unstructured(theirs.conv1, "weight", 0.5)
    peer.ln_structured(theirs.fc1, "weight", 0.5, 2, 0)
    for module in (mine.conv1, mine.fc1):
        ours.identity(module, "weight")
    mine.load_state_dict(theirs.state_dict())
    for layer in ("conv1", "fc1"):
        assert torch.equal(getattr(mine, layer).weight, getattr(theirs, layer).weight)
        assert torch.equal(getattr(mine, layer).weight_mask, getattr(theirs, layer).weight_mask)
    state = theirs.state_dict()
    state["fc1.weight_mask"] = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=r"mask of fc1.weight must have the shape"):
        mine.load_state_dict(state)
    state = mine.state_dict()
    state._metadata["fc1"]["moptcore.prune"]["weight"] = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=r"mask of fc1.weight must have 9600 bits, got 24"):
        mine.load_state_dict(state)


@BOTH
def test_remove_makes_it_permanent(prune: ModuleType) -> None:
    model = LeNet()
    keys, parameter = list(dict(model.named_parameters())), model.fc1.weight
    prune.l1_unstructured(model.fc1, "weight", 0.5)
    prune.l1_unstructured(model.fc1, "weight", 0.5)
    prune.l1_unstructured(model.fc1, "bias", 0.5)
    pruned = model.fc1.weight.detach().clone()
    assert prune.remove(model.fc1, "weight") is model.fc1
    assert model.fc1.weight is parameter
    assert torch.equal(model.fc1.weight, pruned)
    assert not hasattr(model.fc1, "weight_mask")
    assert not hasattr(model.fc1, "weight_orig")
    assert prune.is_pruned(model)
    prune.remove(model.fc1, "bias")
    assert not prune.is_pruned(model)
    assert not model.fc1._forward_pre_hooks
    assert sorted(dict(model.named_parameters())) == sorted(keys)
    model.fc1.weight.sum().backward()
    torch.optim.SGD(model.parameters(), lr=10.0).step()
    assert model.fc1.weight.all()
    assert not model.fc1._state_dict_hooks
    assert not model.fc1._load_state_dict_pre_hooks
    assert not model.fc1._load_state_dict_post_hooks


def test_nothing_is_kept_alive() -> None:
    module = pruned_linear()
    module(torch.ones(1, 8)).sum().backward()
    parameter = module.weight
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
    # The parameter lives on by itself.
    assert parameter.grad is not None


# Surroundings


def test_half_precision_devices_and_autocast() -> None:
    model = LeNet()
    for module in (model.conv1, model.fc1):
        ours.l1_unstructured(module, "weight", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(3):
        x, y = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        assert zeros_hold(model.fc1)
    model.to(torch.bfloat16)
    model(x.bfloat16())
    assert model.fc1.weight_mask.dtype == torch.bfloat16
    model.to(torch.float64)
    F.cross_entropy(model(x.double()), y).backward()
    assert bool((model.fc1.weight.grad[model.fc1.weight_mask == 0] == 0).all())
    assert zeros_hold(model.fc1)


def test_compiled_training_keeps_zeros() -> None:
    model = LeNet()
    optimizer = _trained(model)
    for module in (model.conv1, model.fc1):
        ours.l1_unstructured(module, "weight", 0.5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = copy.deepcopy(model)
    others = copy.deepcopy(optimizer.state_dict())
    twin = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    twin.load_state_dict(others)
    for step in range(3):
        losses = train_step(compiled, optimizer, step), train_step(expected, twin, step)
        torch.testing.assert_close(*losses)
        assert zeros_hold(model.conv1)
        assert zeros_hold(model.fc1)
    model.load_state_dict(LeNet().state_dict())
    assert zeros_hold(model.fc1)
    again = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    x, _ = batch(1)
    assert torch.equal(again(x), model(x))


def test_a_data_parallel_replica_is_pruned() -> None:
    module = pruned_linear()
    replica = module._replicate_for_data_parallel()
    weight = torch.ones(4, 8, requires_grad=True)
    replica.weight = weight * 1.0
    replica.bias = module.bias
    replica(torch.ones(1, 8)).sum().backward()
    assert torch.equal(replica.weight.detach(), module.weight_mask)
    assert torch.equal(weight.grad, module.weight_mask)
    assert module._parameters["weight"] is module.weight


def test_functional_call_masks_the_tensors_that_it_is_given() -> None:
    module, x = pruned_linear(), torch.ones(1, 8)
    kept = module.weight.detach().clone()
    dense = torch.ones(4, 8, requires_grad=True) * 2
    found = torch.func.functional_call(module, {"weight": dense, "bias": torch.zeros(4)}, (x,))
    assert torch.equal(found, 2 * module.weight_mask.sum(1).unsqueeze(0))
    assert torch.equal(module.weight, kept)
    values = {name: each.detach() for name, each in module.named_parameters()}
    grads = torch.func.grad(lambda p: torch.func.functional_call(module, p, (x,)).sum())(values)
    assert torch.equal(grads["weight"], module.weight_mask)
    assert isinstance(module.weight, nn.Parameter)
    assert set(values) == {"weight", "bias"}
    assert not module._forward_hooks
    with pytest.raises(RuntimeError, match="shapes"):
        torch.func.functional_call(module, {"weight": dense}, (torch.ones(1, 3),))
    assert isinstance(module.weight, nn.Parameter)
    call = torch.compile(
        lambda weight: torch.func.functional_call(module, {"weight": weight}, (x,)),
        backend="aot_eager",
    )
    expected = 2 * module.weight_mask.sum(1).unsqueeze(0) + module.bias
    assert torch.equal(call(dense.detach()), expected)
    jacobian = torch.func.jacrev(module)(x)
    assert torch.equal(jacobian[0, :, 0], kept)


def test_checkpointing_scripts_and_exports_run() -> None:
    module, x = pruned_linear(), torch.randn(2, 8)
    expected = module(x)
    y = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(y, expected)
    exported = torch.export.export(module, (x,)).module()
    assert torch.equal(exported(x), expected)
    # Conversions keep the hooks of a module whose weight is then something else.
    (hook,) = module._forward_pre_hooks.values()
    other = nn.Identity()
    other.register_forward_pre_hook(hook)
    assert torch.equal(other(x), x)


def test_the_optimizer_hook_serves_optimizers_of_the_user() -> None:
    class Sign(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for each in group["params"]:
                    each.data.sub_(0.1)

    module = pruned_linear()
    Sign(module.parameters()).step()
    assert zeros_hold(module)
    module(torch.ones(1, 8)).sum().backward()
    for each in module.parameters():  # by hand: gradients are zero where weights are pruned
        each.data -= 0.1 * each.grad
    assert zeros_hold(module)


# Torch's own layout


@pytest.mark.parametrize("how", ["keyword", "setting"])
def test_compat_gives_torch_s_layout_to_the_last_detail(how: str) -> None:
    theirs, mine = pair()
    extra = {"compat": "torch"} if how == "keyword" else {}
    if how == "setting":
        assert ours.set_compat("torch") is None
        assert ours.get_compat() == "torch"
    optimizers = [torch.optim.Adam(model.parameters(), 0.01) for model in (theirs, mine)]
    for step in range(4):
        x, y = batch(step)
        for prune, model, optimizer in zip((peer, ours), (theirs, mine), optimizers, strict=True):
            more = extra if prune is ours else {}
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            prune.l1_unstructured(model.fc1, "weight", 0.2, **more)
            prune.ln_structured(model.conv2, "weight", 0.2, 2, 0, **more)
            prune.global_unstructured(
                [(model.fc2, "weight"), (model.conv1, "bias")],
                prune.L1Unstructured,
                amount=5,
                **more,
            )
            optimizer.step()
        assert list(mine.state_dict()) == list(theirs.state_dict())
        for key, value in theirs.state_dict().items():
            assert torch.equal(value, mine.state_dict()[key]), key
        buffers = [name for name, _ in theirs.named_buffers()]
        assert [name for name, _ in mine.named_buffers()] == buffers
        names = [name for name, _ in theirs.named_parameters()]
        assert [name for name, _ in mine.named_parameters()] == names
    assert torch.equal(mine.fc1.weight, theirs.fc1.weight)
    assert not mine.fc1.weight.is_leaf
    assert [len(m._forward_pre_hooks) for m in mine.modules()] == [
        len(m._forward_pre_hooks) for m in theirs.modules()
    ]
    # Either library goes on with the other's modules.
    ours.l1_unstructured(theirs.fc1, "weight", 0.5)
    peer.l1_unstructured(mine.fc1, "weight", 0.5)
    assert torch.equal(mine.fc1.weight_mask, theirs.fc1.weight_mask)
    assert peer.is_pruned(mine)
    for prune, model in ((peer, mine), (ours, theirs)):
        prune.remove(model.fc1, "weight")
    assert torch.equal(mine.fc1.weight, theirs.fc1.weight)
    assert list(mine.fc1.state_dict()) == list(theirs.fc1.state_dict())


def test_torch_s_functions_see_our_layout() -> None:
    module = pruned_linear()
    assert peer.is_pruned(module)
    peer.remove(module, "weight")
    assert not ours.is_pruned(module)
    assert not hasattr(module, "weight_mask")


# Scripts as people write them


@BOTH
def test_a_tutorial_runs_with_either(prune: ModuleType) -> None:
    model = LeNet()
    module = model.conv1
    prune.random_unstructured(module, name="weight", amount=0.3)
    assert "weight_orig" in dict(module.named_parameters()) or prune is ours
    list(module.named_buffers())
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    prune.l1_unstructured(module, name="bias", amount=3)
    assert int((module.bias == 0).sum()) == 3
    prune.ln_structured(module, name="weight", amount=0.5, n=2, dim=0)
    for hook in module._forward_pre_hooks.values():
        if hook._tensor_name == "weight":
            break
    assert len(list(hook)) == 2
    prune.remove(module, "weight")
    model = LeNet()
    for _, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            prune.l1_unstructured(layer, name="weight", amount=0.2)
        elif isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, name="weight", amount=0.4)
    parameters = (
        (model.conv1, "weight"),
        (model.conv2, "weight"),
        (model.fc1, "weight"),
        (model.fc2, "weight"),
    )
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=0.2)
    zeros = sum(int((layer.weight == 0).sum()) for layer, _ in parameters)
    sizes = {layer: layer.weight.nelement() for layer, _ in parameters}
    first = sum(round((0.2 if isinstance(m, nn.Conv2d) else 0.4) * n) for m, n in sizes.items())
    assert zeros == first + round(0.2 * (sum(sizes.values()) - first))
    model(batch(0)[0])


def magnitude_pruning(prune: ModuleType, model: nn.Module, ratio: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, name="weight", amount=ratio)
    return model


def filter_pruning(prune: ModuleType, model: nn.Module, ratio: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, name="weight", amount=ratio, n=2, dim=0)
    return model


def sparsity_of(model: nn.Module) -> float:
    total = zeros = 0
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and hasattr(module, "weight_mask"):
            total += module.weight_mask.numel()
            zeros += (module.weight_mask == 0).sum().item()
    return zeros / total if total > 0 else 0.0


class Gradual:
    """Prunes a growing share of what is left every few steps, before the optimizer's step."""

    def __init__(self, prune: ModuleType, model: nn.Module, final: float, every: int, last: int):
        self.prune, self.model, self.final, self.every, self.last = prune, model, final, every, last
        self.step = 0

    def prune_step(self) -> None:
        if self.step % self.every == 0:
            magnitude_pruning(self.prune, self.model, self.final * self.step / self.last)
        self.step += 1


def test_the_scripts_of_a_course_run_and_agree_with_torch() -> None:
    assert sparsity_of(LeNet()) == 0.0
    theirs, mine = pair()
    for prune, model in ((peer, theirs), (ours, mine)):
        magnitude_pruning(prune, model, 0.5)
    assert sparsity_of(mine) == sparsity_of(theirs)
    assert abs(sparsity_of(mine) - 0.5) < 1e-3  # at most half a weight a layer
    theirs, mine = pair()
    for prune, model in ((peer, theirs), (ours, mine)):
        filter_pruning(prune, model, 0.3)
    filters = mine.conv2.weight.flatten(1).abs().sum(1) == 0
    assert int(filters.sum()) == round(0.3 * 16)
    assert sparsity_of(mine) == sparsity_of(theirs)
    theirs, mine = pair()
    losses = {}
    for prune, model in ((peer, theirs), (ours, mine)):
        pruner = Gradual(prune, model, 0.8, every=2, last=8)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        losses[prune] = []
        for step in range(10):
            x, y = batch(step)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            pruner.prune_step()
            optimizer.step()
            losses[prune].append(loss.item())
    assert losses[ours] == losses[peer]
    assert sparsity_of(mine) == sparsity_of(theirs)
    # Shares of what is left compound beyond the 80 % that were meant; mct.Pruner means them.
    assert sparsity_of(mine) == pytest.approx(1 - 0.8 * 0.6 * 0.4 * 0.2, abs=0.01)
    pruner = mct.Pruner(LeNet(), lambda_schedule())
    for _ in range(10):
        pruner.step()
    assert pruner.sparsity.total == pytest.approx(0.8, abs=1e-3)


def lambda_schedule() -> Any:
    return moptcore.prune.LinearDecay(0.0, 0.8, begin_step=0, end_step=8, frequency=2)


def test_an_ordered_network_and_its_biases() -> None:
    net = nn.Sequential(OrderedDict(first=nn.Linear(10, 4), second=nn.Linear(4, 1)))
    chosen = [(net.first, "weight"), (net.second, "weight")]
    ours.global_unstructured(chosen, pruning_method=ours.L1Unstructured, amount=10)
    zeros = sum(int((getattr(module, name + "_mask") == 0).sum()) for module, name in chosen)
    assert zeros == 10


def test_clusters_and_pruners_know_the_zeros() -> None:
    module = pruned_linear(0.5, 16, 8)
    mask = module.weight_mask.clone()
    mct.cluster(module, 4)
    assert bool((module.weight[mask == 0] == 0).all())
    assert module.weight.unique().numel() <= 4


def test_a_mask_that_is_taken_away_is_named():
    module = ours.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    module.weight_mask = None
    with pytest.raises(TypeError, match=r"weight_mask must be a Tensor \(remove\(module, 'weight'"):
        module(torch.ones(1, 4))


def test_another_name_of_a_parameter_is_not_pruned_by_itself():
    module = ours.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    before = module.weight.detach().clone()
    with pytest.raises(moptcore.Error, match="weight_orig must be a parameter's own name"):
        ours.l1_unstructured(module, "weight_orig", 0.5)
    assert torch.equal(module.weight, before)
    # In torch it is a parameter, and so it is in torch's layout.
    theirs = ours.l1_unstructured(nn.Linear(4, 4), "weight", 0.5, compat="torch")
    ours.l1_unstructured(theirs, "weight_orig", 0.5, compat="torch")
    assert hasattr(theirs, "weight_orig_orig")


@pytest.mark.parametrize("compat", [None, "torch"])
def test_strip_takes_hooks_and_masks_out(compat):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    keys, attributes = list(model.state_dict()), set(vars(model[0]))
    for name in ("weight", "bias"):
        ours.l1_unstructured(model[0], name, 0.5, compat=compat)
    ours.random_unstructured(model[0], "weight", 0.5, compat=compat)
    expected = model[0].weight.detach().clone()
    plain = moptcore.torch.strip(model)
    assert plain is model
    assert not ours.is_pruned(model)
    assert set(vars(model[0])) == attributes
    assert sorted(model.state_dict()) == sorted(keys)
    assert not model[0]._state_dict_hooks
    assert torch.equal(model[0].weight, expected)
