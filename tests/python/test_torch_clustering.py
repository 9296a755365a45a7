# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.prune import ConstantSparsity
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.head = nn.Linear(4 * 49, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.features(x)).flatten(1))


WEIGHTS = ("features.0.weight", "up.weight", "head.weight")


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 8, 8, generator=generator)
    y = torch.randint(0, 5, (8,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def distinct(weight: torch.Tensor) -> int:
    return int(weight.detach().unique().numel())


def best_error(values: np.ndarray[Any, Any], k: int) -> float:
    """The least sum of squared distances to k values: the textbook dynamic programme."""
    x = np.sort(values.astype(np.float64))
    n = len(x)
    sums, squares = np.cumsum(np.r_[0, x]), np.cumsum(np.r_[0, x * x])

    def cost(i: int, j: int) -> float:  # of x[i:j] as one cluster
        return float(squares[j] - squares[i] - (sums[j] - sums[i]) ** 2 / (j - i))

    least = [0.0] + [np.inf] * n
    for _ in range(k):
        least = [0.0] + [min(least[i] + cost(i, j) for i in range(j)) for j in range(1, n + 1)]
    return least[n]


def test_weights_are_replaced_by_the_best_k_values_at_once() -> None:
    model = nn.Linear(10, 8)
    before = model.weight.detach().clone()
    bias = model.bias.detach().clone()
    mct.cluster(model, 5)
    assert distinct(model.weight) == 5
    error = float((model.weight.detach().double() - before.double()).square().sum())
    # Values are rounded to float32: relative 2^-24 of weights below 1, 80 of them.
    assert error == pytest.approx(best_error(before.numpy().ravel(), 5), rel=1e-5)
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize("init", ["optimal", "linear", "density", "random", "kmeans++"])
def test_every_init_leaves_at_most_k_values(init: str) -> None:
    model = Net()
    mct.cluster(model, 7, init=init, seed=3)
    assert all(1 < distinct(model.get_parameter(name)) <= 7 for name in WEIGHTS)


@pytest.mark.parametrize("update", ["centroids", "straight_through"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "sharing", [{}, {"axis": 0}, {"axis": -1}, {"axis": 0, "group_size": 2}, {"group_size": 20}]
)
def test_weights_stay_clustered_after_every_step(
    update: str, optimizer: str, sharing: dict[str, int]
) -> None:
    model = Net()
    clusterer = mct.cluster(model, 4, update=update, **sharing)
    if optimizer == "sgd":
        training = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    else:
        training = torch.optim.AdamW(model.parameters(), 0.01)
    first = {name: model.get_parameter(name).detach().clone() for name in WEIGHTS}
    for step in range(6):
        train_step(model, training, step)
        clusterer.step()
        for name in WEIGHTS:
            weight = model.get_parameter(name).detach()
            for group in groups_of(weight, **sharing):
                assert distinct(group) <= 4, (name, step)
    assert all(not torch.equal(first[name], model.get_parameter(name)) for name in WEIGHTS)


def groups_of(
    weight: torch.Tensor, axis: int | None = None, group_size: int | None = None
) -> list[torch.Tensor]:
    if axis is None:
        return [weight] if group_size is None else list(weight.flatten().split(group_size))
    return list(weight.movedim(axis, 0).split(group_size or 1))


@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_a_value_moves_by_the_updates_of_its_weights(gradient: str) -> None:
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 2.0], [1.0, 5.0, 2.0]]))
    clusterer = mct.cluster(model, 3, gradient=gradient)
    with torch.no_grad():
        model.weight += torch.tensor([[0.25, 0.5, 0.0], [0.75, 1.0, -0.125]]).double()
    assert not clusterer.step()
    one, two = (1.0, 0.375) if gradient == "sum" else (0.5, 0.125)
    expected = [[1 + one, 2 + two, 2 + two], [1 + one, 6.0, 2 + two]]
    assert model.weight.tolist() == expected
    assert clusterer.codebooks["weight"].centroids.tolist() == [1 + one, 2 + two, 6.0]
    assert clusterer.codebooks["weight"].indices.tolist() == [[0, 1, 1], [0, 2, 1]]


def test_hidden_weights_collect_updates_until_they_change_their_value() -> None:
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.2, 1.0, 1.2]], dtype=torch.float64))
    clusterer = mct.cluster(model, 2, update="straight_through", preserve_zeros=False)
    torch.testing.assert_close(
        model.weight.detach(), torch.tensor([[0.1, 0.1, 1.1, 1.1]], dtype=torch.float64)
    )
    centroids, latent = [0.1, 1.1], [0.0, 0.2, 1.0, 1.2]
    assignment = [0, 0, 1, 1]
    moves = []
    for _ in range(4):
        update = [0.0, 0.15, 0.0, 0.0]
        with torch.no_grad():
            model.weight += torch.tensor([update], dtype=torch.float64)
        moves.append(clusterer.step())
        for j in (0, 1):
            of_j = [update[i] for i in range(4) if assignment[i] == j]
            centroids[j] += sum(of_j) / max(len(of_j), 1)
        latent = [v + d for v, d in zip(latent, update, strict=True)]
        assignment = [int(abs(v - centroids[0]) > abs(v - centroids[1])) for v in latent]
        expected = torch.tensor([[centroids[a] for a in assignment]], dtype=torch.float64)
        # A handful of float64 additions of numbers about 1.
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-14)
    assert moves == [False, False, False, True]


def test_plain_sgd_with_sums_is_the_gradient_step_of_the_values() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(16, 6).double(), torch.randn(16, 3).double()
    model = nn.Linear(6, 3, bias=False).double()
    clusterer = mct.cluster(model, 4, gradient="sum")
    book = clusterer.codebooks["weight"]
    centroids = book.centroids.clone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        clusterer.step()
        nn.functional.mse_loss(x @ centroids[book.indices].T, y).backward()
        with torch.no_grad():
            centroids -= 0.05 * centroids.grad
            centroids.grad = None
    # Sums of 18 products, 5 steps, all about 1: far below 1e-12.
    torch.testing.assert_close(
        model.weight.detach(), centroids.detach()[book.indices], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("update", ["centroids", "straight_through"])
def test_zeros_of_a_pruned_weight_stay_and_take_one_of_the_values(update: str) -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1, end_step=1))
    pruner.step()
    zeros = {name: model.get_parameter(name).detach() == 0 for name in WEIGHTS}
    clusterer = mct.cluster(model, 4, update=update)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(5):
        train_step(model, optimizer, step)
        clusterer.step()
        for name in WEIGHTS:
            weight = model.get_parameter(name)
            assert torch.equal(weight == 0, zeros[name])
            assert distinct(weight) <= 4
    assert clusterer.coverage[2].after == {
        "values": 4,
        "codebooks": 1,
        "nonzeros": 490,
    }


def test_zeros_are_kept_without_a_pruner_and_given_up_when_told() -> None:
    first, second = nn.Linear(9, 9), nn.Linear(9, 9)
    with torch.no_grad():
        for model in (first, second):
            model.weight[::2] = 0.0
    mct.cluster(first, 3)
    assert int((first.weight == 0).sum()) == 45
    assert distinct(first.weight) == 3
    with torch.no_grad():
        second.weight[0, 0] = 1e-3
    mct.cluster(second, 3, preserve_zeros=False)
    assert distinct(second.weight) == 3
    assert int((second.weight == 0).sum()) == 0  # they are averaged with what is near
    untrained = nn.Linear(3, 3)
    nn.init.zeros_(untrained.weight)
    clusterer = mct.cluster(untrained, 2)
    nn.init.ones_(untrained.weight)
    clusterer.step()
    assert bool((untrained.weight == 1).all())


@pytest.mark.parametrize("update", ["centroids", "straight_through"])
@pytest.mark.parametrize("first", ["pruner", "clusterer"])
def test_a_mask_renewed_later_makes_room_for_zero(update: str, first: str) -> None:
    model = Net()
    clusterer = mct.cluster(model, 4, update=update)
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 2, frequency=2))
    parts = [pruner, clusterer] if first == "pruner" else [clusterer, pruner]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(1, 8):
        train_step(model, optimizer, step)
        for part in parts:
            part.step()
        for name in WEIGHTS:
            weight = model.get_parameter(name).detach()
            assert distinct(weight) <= 4, (step, name)
            if step >= 2:
                assert int((weight == 0).sum()) == round(weight.numel() * 0.5), (step, name)
                assert bool((weight[~pruner.masks[name]] == 0).all())


def test_a_pruner_of_a_part_and_a_clusterer_of_the_whole_know_each_other() -> None:
    model = Net()
    clusterer = mct.cluster(model, 3)
    pruner = mct.Pruner(model.features, ConstantSparsity(0.5, 1))
    pruner.step()
    weight = model.features[0].weight
    assert int((weight == 0).sum()) == 27
    assert distinct(weight) == 3
    with torch.no_grad():
        weight.add_(1.0)
    clusterer.step()
    assert int((weight == 0).sum()) == 27


def test_n_of_m_zeros_survive_clustering() -> None:
    model = nn.Linear(32, 8)
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1, end_step=1), structure=(2, 4))
    pruner.step()
    clusterer = mct.cluster(model, 4)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(5, 32)).square().sum().backward()
        optimizer.step()
        clusterer.step()
        kept = (model.weight.detach() != 0).reshape(8, 8, 4).sum(2)
        assert bool((kept == 2).all()), step


def test_one_codebook_for_all_layers() -> None:
    model = Net()
    clusterer = mct.weight_share(model, 6)
    joined = torch.cat([model.get_parameter(name).detach().flatten() for name in WEIGHTS])
    assert distinct(joined) == 6
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(4):
        train_step(model, optimizer, step)
        clusterer.step()
        joined = torch.cat([model.get_parameter(name).detach().flatten() for name in WEIGHTS])
        assert distinct(joined) == 6
    books = clusterer.codebooks
    assert torch.equal(books[WEIGHTS[0]].centroids, books[WEIGHTS[2]].centroids)
    for name in WEIGHTS:
        book = books[name]
        assert torch.equal(book.centroids[book.indices], model.get_parameter(name))
    # Pruning a single layer makes room for zero in the codebook of all.
    mct.Pruner(model, ConstantSparsity(0.5, 1), include="head").step()
    joined = torch.cat([model.get_parameter(name).detach().flatten() for name in WEIGHTS])
    assert distinct(joined) <= 6
    assert int((model.head.weight == 0).sum()) == 490
    assert int((model.up.weight == 0).sum()) == 0


def test_the_module_is_left_alone() -> None:
    model = Net()
    keys, kind = list(model.state_dict()), type(model)
    clusterer = mct.cluster(model, 4)
    assert list(model.state_dict()) == keys
    assert type(model) is kind
    assert type(model.head.weight) is nn.Parameter
    assert not model.head._forward_pre_hooks
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    with torch.no_grad():
        twin.head.weight.add_(torch.randn_like(twin.head.weight))
    clusterer.step()
    assert distinct(twin.head.weight) > 4  # a copy is free
    clusterer.follow(twin)
    clusterer.apply()
    assert torch.equal(twin.head.weight, model.head.weight)


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    clusterer = mct.cluster(model, 3)
    assert [row.reason for row in clusterer.coverage] == ["tied: also 1.weight"]
    assert list(clusterer.codebooks) == ["0.weight"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_clustered_and_stay_so(dtype: torch.dtype) -> None:
    model = nn.Linear(12, 12, bias=False).to(dtype)
    clusterer = mct.cluster(model, 4, update="straight_through")
    for _ in range(3):
        with torch.no_grad():
            model.weight += 0.1 * torch.randn(12, 12).to(dtype)
        clusterer.step()
        assert model.weight.dtype == dtype
        assert distinct(model.weight) <= 4
    assert clusterer.codebooks["weight"].centroids.dtype == dtype


def test_more_values_than_there_are_change_nothing() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    mct.cluster(model, 300)
    assert torch.equal(model.weight, before)
    wide = nn.Linear(40, 40)
    clusterer = mct.cluster(wide, 300)
    with torch.no_grad():
        wide.weight.add_(torch.randn_like(wide.weight))
    clusterer.step()
    assert 256 < distinct(wide.weight) <= 300


def test_nan_is_named_and_nothing_changes() -> None:
    model = Net()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(moptcore.NonFiniteError, match=r"head\.weight must not hold NaN"):
        mct.cluster(model, 4)
    for name in WEIGHTS[:2]:
        assert torch.equal(model.get_parameter(name), before[name])
    with torch.no_grad():
        model.head.weight[0, 0] = 0.5
    clusterer = mct.cluster(model, 4)
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(moptcore.NonFiniteError, match=r"head\.weight must not hold NaN"):
        clusterer.step()
    clusterer.apply()
    assert distinct(model.head.weight) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": 0}, ValueError, r"\[torch.Clusterer\] k must be in \[1, 65536\], got 0"),
        ({"k": 2.5}, TypeError, "k must be an integer"),
        ({"k": 1, "preserve_zeros": True}, ValueError, r"k must be in \[2, 65536\], got 1"),
        ({"init": "best"}, ValueError, "init must be one of 'optimal', .*, got 'best'"),
        ({"update": "all"}, ValueError, "update must be one of"),
        ({"gradient": "max"}, ValueError, "gradient must be one of"),
        ({"preserve_zeros": "yes"}, TypeError, "preserve_zeros must be None or a bool"),
        ({"group_size": 0}, ValueError, "group_size must be >= 1, got 0"),
        ({"axis": "out"}, TypeError, "axis must be None or an integer"),
        ({"seed": -1}, ValueError, "seed must be >= 0, got -1"),
        ({"include": "hed"}, ValueError, "nearest names: head"),
        ({"axis": 2, "strict": True}, moptcore.CoverageError, "has no axis 2"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type, text: str) -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=text):
        mct.cluster(model, **arguments)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_model_that_is_none_and_one_without_weights_are_named() -> None:
    with pytest.raises(TypeError, match="model must be a Module, got int"):
        mct.cluster(3)
    with pytest.warns(UserWarning, match="no parameter is selected"):
        mct.cluster(nn.BatchNorm2d(3))
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match=r"one dtype, got torch\.float32, torch\.float64"):
        mct.weight_share(mixed, 2)


@pytest.mark.parametrize("update", ["centroids", "straight_through"])
def test_the_state_continues_with_the_same_bits(update: str) -> None:
    def start() -> tuple[Net, torch.optim.Optimizer, mct.Clusterer]:
        torch.manual_seed(4)
        model = Net()
        clusterer = mct.cluster(model, 4, update=update)
        return model, torch.optim.Adam(model.parameters(), 0.01), clusterer

    model, optimizer, clusterer = start()
    for step in range(8):
        if step == 3:
            saved = io.BytesIO()
            book = {k: torch.from_numpy(v) for k, v in clusterer.state_dict().items()}
            torch.save([model.state_dict(), optimizer.state_dict(), book], saved)
        train_step(model, optimizer, step)
        clusterer.step()
    other, training, again = start()
    saved.seek(0)
    weights, moments, book = torch.load(saved, weights_only=True)
    other.load_state_dict(weights)
    training.load_state_dict(moments)
    again.load_state_dict(book)
    for step in range(3, 8):
        train_step(other, training, step)
        again.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert clusterer.state_dict().keys() == again.state_dict().keys()


def test_a_damaged_or_foreign_state_is_named_and_nothing_changes() -> None:
    model = Net()
    clusterer = mct.cluster(model, 4)
    state = clusterer.state_dict()
    damaged = {**state, "cluster/head.weight/indices": state["cluster/head.weight/indices"] ^ 1}
    with pytest.raises(moptcore.FormatError, match="damaged or changed"):
        clusterer.load_state_dict(damaged)
    foreign = mct.cluster(nn.Linear(3, 3), 2).state_dict()
    with pytest.raises(moptcore.FormatError, match="other names"):
        clusterer.load_state_dict(foreign)
    kinds = mct.cluster(Net(), 4, update="straight_through").state_dict()
    with pytest.raises(moptcore.FormatError, match="update must be that of the state"):
        clusterer.load_state_dict(kinds)
    with pytest.raises(TypeError, match="must be a mapping"):
        clusterer.load_state_dict([1])
    assert clusterer.state_dict().keys() == state.keys()
    for key, value in clusterer.state_dict().items():
        assert np.array_equal(value, state[key]), key


def test_a_clusterer_survives_pickle_and_copy() -> None:
    model = Net()
    clusterer = mct.cluster(model, 4)
    for twin in (pickle.loads(pickle.dumps(clusterer)), copy.deepcopy(clusterer)):
        with torch.no_grad():
            twin._model.head.weight.add_(torch.randn_like(model.head.weight))
        twin.step()
        assert distinct(twin._model.head.weight) <= 4
    assert clusterer.codebooks["head.weight"].indices.shape == (5, 196)


def test_the_grouped_assignment_is_the_nearest_value() -> None:
    model = nn.Linear(16, 6, bias=False)
    clusterer = mct.cluster(model, 3, axis=0, update="straight_through")
    latent = clusterer._shelves[0].book.latent.reshape(6, 16).clone()
    for _ in range(4):
        before = model.weight.detach().clone()
        with torch.no_grad():
            model.weight += 0.2 * torch.randn(6, 16)
        latent += model.weight.detach() - before
        clusterer.step()
        centroids = clusterer.codebooks["weight"].centroids
        nearest = (latent[:, :, None].double() - centroids[:, None].double()).abs().argmin(2)
        assert torch.equal(clusterer.codebooks["weight"].indices, nearest)


@pytest.mark.parametrize("sharing", [{}, {"axis": 0}, {"group_size": 20}])
@pytest.mark.parametrize("update", ["centroids", "straight_through"])
def test_other_devices_compute_what_the_cpu_computes(
    update: str, sharing: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(on_cpu: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        model = Net()
        clusterer = mct.cluster(model, 4, update=update, **sharing)
        pruner = mct.Pruner(model, ConstantSparsity(0.5, 3, frequency=2))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(1, 7):
            train_step(model, optimizer, step)
            with monkeypatch.context() as patch:
                if not on_cpu:
                    # A tensor that says that it is elsewhere takes the way of torch operations.
                    patch.setattr(torch.Tensor, "is_cpu", property(lambda _: False))
                clusterer.step()
                pruner.step()
        return model.state_dict()

    one, other = run(True), run(False)
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"group_size": 16}])
@pytest.mark.parametrize("update", ["centroids", "straight_through"])
def test_a_state_without_zeros_to_preserve_loads_again(
    options: dict[str, Any], update: str
) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    with torch.no_grad():
        model[0].weight[0].zero_()  # one of eight groups holds zeros, the others none
        if not options:
            model[0].weight.add_(1.0)
    clusterer = mct.Clusterer(model, 4, preserve_zeros=True, update=update, **options)
    state = clusterer.state_dict()
    assert (state["cluster/0.weight/zero"] == -1).any()
    again = mct.Clusterer(copy.deepcopy(model), 4, update=update, **options)
    again.load_state_dict(state)
    for key, value in again.state_dict().items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    again.apply()
    clusterer.step()
    assert torch.equal(again._model[0].weight, model[0].weight)


def test_a_group_without_a_zero_cannot_hold_zeros() -> None:
    model = nn.Linear(8, 8)
    with torch.no_grad():
        model.weight[0].zero_()
    clusterer = mct.Clusterer(model, 4, axis=0)
    state = clusterer.state_dict()
    state["cluster/weight/zero"][0] = -1
    name = clusterer._fingerprint()
    with pytest.raises(moptcore.FormatError, match=r"cluster/weight/\* zero must name"):
        clusterer.load_state_dict(moptcore.core.seal(state, name))


@pytest.mark.parametrize(
    ("own", "other", "named"),
    [
        ({"k": 2}, {"k": 6}, "k must be that of the state, 6, got 2"),
        ({"k": 6}, {"k": 2}, "k must be that of the state, 2, got 6"),
        ({"k": 2, "axis": 0}, {"k": 2, "axis": 1}, "axis"),
        ({"k": 2, "group_size": 8}, {"k": 2, "axis": 0}, "axis"),
        ({"k": 2}, {"k": 2, "update": "straight_through"}, "update"),
    ],
)
def test_states_of_other_settings_are_refused(
    own: dict[str, Any], other: dict[str, Any], named: str
) -> None:
    model = nn.Linear(8, 8)
    clusterer = mct.Clusterer(model, **own)
    before = clusterer.state_dict()
    with pytest.raises(moptcore.FormatError, match=rf"\[torch.Clusterer\] {named}"):
        clusterer.load_state_dict(mct.Clusterer(nn.Linear(8, 8), **other).state_dict())
    for key, value in clusterer.state_dict().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_no_state_brings_more_values_than_k() -> None:
    clusterer = mct.Clusterer(model := nn.Linear(8, 8), 2)
    state = mct.Clusterer(nn.Linear(8, 8), 6).state_dict()
    with pytest.raises(moptcore.FormatError, match="k = 2"):
        clusterer.load_state_dict(state, strict=False)
    clusterer.apply()
    assert distinct(model.weight) == 2


def test_a_clusterer_of_a_model_that_changed_leaves_other_models_alone() -> None:
    changed = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    stale = mct.Clusterer(changed, 4)
    changed[1] = nn.Linear(8, 3)
    model = nn.Sequential(nn.Linear(8, 8))
    pruner = mct.Pruner(model, ConstantSparsity(0.5, begin_step=1))
    pruner.step()
    other = mct.Clusterer(model, 4)
    other.step()
    assert 0.0 in model[0].weight
    assert mct.prepare_qat(model, torch.randn(4, 8)).coverage[0].done
    assert mct.quantize_weights(model).quantization_coverage[0].done
    # What is left of the changed model still has its codebook and its masks.
    held = mct.Pruner(changed, ConstantSparsity(0.5, begin_step=1), include="0")
    held.step()
    assert distinct(changed[0].weight) <= 4
    with pytest.raises(moptcore.Error, match=r"1.weight must be a parameter of shape \(4, 8\)"):
        stale.step()


@pytest.mark.parametrize("options", [{}, {"gradient": "sum"}, {"update": "straight_through"}])
@pytest.mark.parametrize("order", ["pruner first", "clusterer first"])
def test_values_that_lose_their_weights_to_a_mask_are_placed_again(
    options: dict[str, Any], order: str
) -> None:
    model = Net()
    clusterer = mct.Clusterer(model, 8, **options)
    shares = {1: 0.2, 3: 0.7, 6: 0.9}
    pruner = mct.Pruner(model, lambda step: shares[max(s for s in shares if s <= step)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parts = [pruner, clusterer] if order == "pruner first" else [clusterer, pruner]
    for step in range(1, 8):
        train_step(model, optimizer, step)
        for part in parts:
            part.step()
        for name in WEIGHTS:
            weight = model.get_parameter(name)
            kept = int(pruner.masks[name].sum())
            # A mask that comes behind the clusterer finds weights without differences.
            if order == "pruner first" or step not in shares:
                assert distinct(weight) == min(8, kept + 1), name
            assert distinct(weight) <= 8
            assert bool((weight[~pruner.masks[name]] == 0).all())
