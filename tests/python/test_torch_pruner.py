# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.prune import ConstantSparsity, PolynomialDecay
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.head = nn.Linear(4 * 49, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.features(x)).flatten(1))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 8, 8, generator=generator)
    return x, torch.randint(0, 5, (8,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    x, y = batch(seed)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def smallest(weight: torch.Tensor, zeros: int) -> np.ndarray[Any, Any]:
    """The mask by its definition: sort by magnitude, larger first, then by index."""
    magnitude = weight.detach().double().abs().numpy().ravel()
    order = np.lexsort((np.arange(magnitude.size), -magnitude))
    keep = np.zeros(magnitude.size, bool)
    keep[order[: magnitude.size - zeros]] = True
    return keep.reshape(weight.shape)


def ramp(end: int = 12, final: float = 0.8, frequency: int = 4) -> PolynomialDecay:
    return PolynomialDecay(0.0, final, begin_step=0, end_step=end, frequency=frequency)


def test_weights_are_exactly_sparse_after_every_step() -> None:
    model, schedule = Net(), ramp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    pruner = mct.Pruner(model, schedule)
    target, renewed = 0.0, []
    for step in range(1, 18):
        train_step(model, optimizer, step)
        if pruner.step():
            renewed.append(step)
            target = schedule.sparsity(step)
        for name in ("features.0.weight", "up.weight", "head.weight"):
            weight = model.get_parameter(name)
            assert int((weight == 0).sum()) == round(weight.numel() * target), (step, name)
    assert renewed == [4, 8, 12]
    assert target == 0.8
    # 54, 96 and 980 weights.
    zeros = [round(0.8 * n) for n in (54, 96, 980)]
    assert pruner.sparsity.total == sum(zeros) / (54 + 96 + 980)
    assert pruner.sparsity.layers["head.weight"] == zeros[2] / 980


def test_a_mask_keeps_the_largest_of_the_current_weights_so_weights_may_return() -> None:
    model = nn.Linear(8, 4, bias=False)
    expected = smallest(model.weight, 16)
    pruner = mct.Pruner(model, ConstantSparsity(0.5, begin_step=1, frequency=2))

    def grow() -> None:
        with torch.no_grad():
            model.weight[~torch.from_numpy(expected)] = 10.0

    assert pruner.step()
    np.testing.assert_array_equal(pruner.masks["weight"].numpy(), expected)
    grow()
    assert not pruner.step()
    np.testing.assert_array_equal((model.weight != 0).numpy(), expected)
    grow()
    assert pruner.step()
    np.testing.assert_array_equal(pruner.masks["weight"].numpy(), ~expected)


def test_global_scope_ranks_all_weights_together() -> None:
    model = Net()
    with torch.no_grad():
        model.head.weight.mul_(0.01)
    names = ["features.0.weight", "up.weight", "head.weight"]
    joined = torch.cat([model.get_parameter(name).detach().flatten() for name in names])
    expected = smallest(joined, round(0.7 * joined.numel()))
    pruner = mct.Pruner(model, ConstantSparsity(0.7, 1), scope="global")
    pruner.step()
    found = np.concatenate([pruner.masks[name].numpy().ravel() for name in names])
    np.testing.assert_array_equal(found, expected)
    assert pruner.sparsity.total == round(0.7 * joined.numel()) / joined.numel()


def test_channel_structure_removes_the_outputs_of_smallest_norm() -> None:
    model = Net()
    weights = {
        "features.0.weight": (model.features[0].weight.detach().clone(), 0),
        "up.weight": (model.up.weight.detach().clone(), 1),
        "head.weight": (model.head.weight.detach().clone(), 0),
    }
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), structure="channel")
    pruner.step()
    for name, (weight, axis) in weights.items():
        slices = weight.double().movedim(axis, 0).flatten(1)
        count = slices.shape[0]
        order = slices.norm(dim=1).argsort()
        keep = torch.ones(count, dtype=torch.bool)
        keep[order[: round(0.5 * count)]] = False
        mask = pruner.masks[name].movedim(axis, 0).flatten(1)
        assert torch.equal(mask, keep.unsqueeze(1).expand_as(mask)), name


def test_n_of_m_structure_keeps_the_largest_along_the_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(8, 3, 3), nn.Linear(10, 2), nn.Conv2d(3, 2, 1))
    conv, linear = model[0].weight.detach().clone(), model[1].weight.detach().clone()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), structure=(2, 4))
    pruner.step()
    blocks = conv.movedim(1, -1).reshape(3, 3, 3, 2, 4)
    kept = pruner.masks["0.weight"].movedim(1, -1).reshape(3, 3, 3, 2, 4)
    assert (kept.sum(-1) == 2).all()
    assert (blocks.abs().where(kept, 9.0).amin(-1) >= blocks.abs().where(~kept, 0).amax(-1)).all()
    mask = pruner.masks["1.weight"]
    assert (mask[:, :8].reshape(2, 2, 4).sum(-1) == 2).all()
    assert mask[:, 8:].all()
    assert torch.equal(model[1].weight, linear.where(mask, 0.0))
    row = pruner.coverage[2]
    assert (row.name, row.done) == ("2.weight", False)
    assert row.reason == "axis 1 has 3 weights, fewer than 4"


def test_block_structure_removes_whole_blocks() -> None:
    model = nn.Linear(8, 8)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.weight[0:4, 0:2] = 0.1
        model.weight[4:8, 6:8] = 0.2
    pruner = mct.Pruner(model, ConstantSparsity(0.25, 1), structure={"block": (4, 2)})
    pruner.step()
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[0:4, 0:2] = False
    expected[4:8, 6:8] = False
    assert torch.equal(pruner.masks["weight"], expected)


def test_include_and_exclude_choose_the_parameters() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), include=nn.Conv2d, exclude=["head"])
    pruner.step()
    assert list(pruner.masks) == ["features.0.weight"]
    assert int((model.head.weight == 0).sum()) == 0
    reasons = {row.name: row.reason for row in pruner.coverage}
    assert reasons == {
        "features.0.weight": "",
        "up.weight": "not in include",
        "head.weight": "excluded by 'head'",
    }
    mct.Pruner(model, ConstantSparsity(0.5, 1), exclude=nn.BatchNorm2d)
    with pytest.raises(ValueError, match=r"\[torch.Pruner\] exclude .* got 'haed'; nearest.*head"):
        mct.Pruner(model, ConstantSparsity(0.5, 1), exclude=["haed"])


def test_tied_parameters_are_pruned_once_and_any_of_their_names_selects() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    pruner.step()
    assert list(pruner.masks) == ["0.weight"]
    assert "tied: also 2.weight" in pruner.coverage[0].reason
    assert int((model[2].weight == 0).sum()) == 18
    with pytest.warns(UserWarning, match="no parameter is selected"):
        assert mct.Pruner(model, ConstantSparsity(0.5, 1), exclude="2.weight").masks == {}


def test_coverage_has_a_row_for_every_matrix_and_strict_refuses_what_cannot_be_done() -> None:
    model = nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 3), nn.LayerNorm(3))
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), structure="channel")
    assert [(row.name, row.done) for row in pruner.coverage] == [
        ("0.weight", False),
        ("1.weight", True),
    ]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(moptcore.core.CoverageError, match="no channel axis is known") as raised:
        mct.Pruner(model, ConstantSparsity(0.5, 1), structure="channel", strict=True)
    assert "1.weight" in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    mct.Pruner(
        model, ConstantSparsity(0.5, 1), structure="channel", exclude=nn.Embedding, strict=True
    )


def test_a_layer_that_loses_its_last_weight_is_named() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(4, 4))
    pruner = mct.Pruner(model, ConstantSparsity(0.9, 1))
    pruner.step()
    row = pruner.coverage[0]
    assert row.done
    assert row.reason == "every weight is pruned"
    assert row.after == {"nonzeros": 0, "sparsity": 1.0}
    assert pruner.coverage[1].after["nonzeros"] == 16 - round(0.9 * 16)


def test_resuming_equals_never_having_stopped_bit_for_bit() -> None:
    def fresh() -> tuple[Net, torch.optim.Optimizer, mct.Pruner]:
        torch.manual_seed(3)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, mct.Pruner(model, ramp())

    model, optimizer, pruner = fresh()
    saved: dict[int, bytes] = {}
    for step in range(1, 15):
        train_step(model, optimizer, step)
        pruner.step()
        file = io.BytesIO()
        parts = (model.state_dict(), optimizer.state_dict())
        torch.save([*parts, {k: torch.from_numpy(v) for k, v in pruner.state_dict().items()}], file)
        saved[step] = file.getvalue()
    for start in (2, 4, 7, 12):
        again, optimizer, resumed = fresh()
        weights, moments, masks = torch.load(io.BytesIO(saved[start]), weights_only=True)
        again.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        resumed.load_state_dict(masks)
        for step in range(start + 1, 15):
            train_step(again, optimizer, step)
            resumed.step()
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), (start, key)
        for key, array in pruner.state_dict().items():
            np.testing.assert_array_equal(array, resumed.state_dict()[key])


def test_a_state_of_another_model_or_a_damaged_one_is_refused() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    pruner.step()
    state = pruner.state_dict()
    assert set(state) == {
        "__format__",
        "__fingerprint__",
        "__sha256__",
        "prune/step",
        "prune/seed",
        "prune/settings",
        *(f"prune/{name}/mask" for name in ("features.0.weight", "up.weight", "head.weight")),
    }
    other = mct.Pruner(nn.Linear(4, 4), ConstantSparsity(0.5, 1))
    with pytest.raises(moptcore.FormatError, match="__fingerprint__"):
        other.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    assert other.masks == {}
    for key in set(state) - {"prune/seed"}:
        less = {name: value for name, value in state.items() if name != key}
        with pytest.raises(moptcore.FormatError, match=f"must hold {key}"):
            pruner.load_state_dict(less)
    state["prune/head.weight/mask"] = state["prune/head.weight/mask"] ^ 1
    before = pruner.state_dict()
    with pytest.raises(moptcore.FormatError, match="__sha256__"):
        pruner.load_state_dict(state)
    for key, value in pruner.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("prune/step", np.array(-1), "must hold prune/step as an integer >= 0"),
        ("prune/step", np.array(1.5), "must hold prune/step as an integer >= 0"),
        ("prune/weight/mask", np.zeros(1, np.uint8), r"prune/weight/mask must be uint8 \(2,\)"),
        ("prune/weight/mask", np.zeros(2, np.int8), r"prune/weight/mask must be uint8 \(2,\)"),
        ("prune/other/mask", np.zeros(2, np.uint8), "unknown entries.*prune/other/mask"),
    ],
)
def test_a_sealed_state_with_wrong_entries_is_refused(key: str, value: Any, text: str) -> None:
    pruner = mct.Pruner(nn.Linear(4, 4), ConstantSparsity(0.5, 1))
    pruner.step()
    state = pruner.state_dict()
    name = bytes(state["__fingerprint__"]).decode()
    with pytest.raises(moptcore.FormatError, match=text):
        pruner.load_state_dict(moptcore.core.seal({**state, key: value}, name))


def test_the_module_stays_as_it_was() -> None:
    model = Net()
    before = {name: (p.shape, p.is_leaf, id(p)) for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    pruner.step()
    assert type(model) is Net
    assert type(model.head) is nn.Linear
    assert {name: (p.shape, p.is_leaf, id(p)) for name, p in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    x, _ = batch(1)
    expected = model.eval()(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
    twin = copy.deepcopy(pruner)
    with torch.no_grad():
        twin._model.head.weight.fill_(1.0)
    twin.step()
    assert int((twin._model.head.weight == 0).sum()) == 490
    assert int((model.head.weight == 1).sum()) == 0


def test_replaced_and_converted_parameters_are_found_again() -> None:
    model = nn.Linear(8, 8)
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    pruner.step()
    mask = pruner.masks["weight"]
    model.load_state_dict(
        {k: torch.ones_like(v) for k, v in model.state_dict().items()}, True, True
    )
    pruner.apply()
    assert torch.equal(model.weight != 0, mask)
    model.to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    pruner.step()
    assert torch.equal(model.weight != 0, mask)
    model.weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(moptcore.Error, match=r"weight must be .* shape \(8, 8\), got \(2, 2\)"):
        pruner.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_any_dtype_and_layout_gets_the_exact_mask(dtype: torch.dtype, layout: str) -> None:
    model = nn.Conv2d(5, 7, 3).to(dtype)
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        model.weight = nn.Parameter(torch.randn(5, 7, 3, 3).to(dtype).transpose(0, 1))
    expected = smallest(model.weight, round(0.6 * 315))
    pruner = mct.Pruner(model, ConstantSparsity(0.6, 1))
    stride = model.weight.stride()
    pruner.step()
    np.testing.assert_array_equal(pruner.masks["weight"].numpy(), expected)
    assert torch.equal(model.weight == 0, ~torch.from_numpy(expected))
    assert model.weight.stride() == stride


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nan_weights_are_refused_by_name_and_nothing_changes(scope: str) -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), scope=scope)
    with torch.no_grad():
        model.head.weight[1, 2] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(moptcore.NonFiniteError, match=r"\[torch.Pruner\] head.weight must not"):
        pruner.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[key].nan_to_num(7.0)), key
    assert pruner.masks == {}
    with torch.no_grad():
        model.head.weight[1, 2] = 1.0
    assert pruner.step()
    assert int(pruner.state_dict()["prune/step"]) == 1


def test_a_graph_older_than_the_step_is_not_differentiated_silently() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1))
    loss = model(torch.randn(2, 4)).sum()
    pruner.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("scope", "structure"),
    [("layer", None), ("global", None), ("layer", "channel"), ("layer", (2, 4))],
)
def test_devices_that_the_core_does_not_reach_get_the_same_weights(
    scope: str, structure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        pruner = mct.Pruner(model, ramp(final=0.6), scope=scope, structure=structure)
        for step in range(1, 14):
            train_step(model, optimizer, step)
            pruner.step()
        return dict(model.state_dict())

    expected = trained()
    monkeypatch.setattr("moptcore.torch.masking.on_core", lambda tensor: False)
    found = trained()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_autocast_accumulation_and_checkpointing_work() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = mct.Pruner(model, ramp())
    for step in range(1, 14):
        optimizer.zero_grad()
        for part in range(2):
            x, y = batch(100 * step + part)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = checkpoint(model.features, x, use_reentrant=False)
                logits = model.head(model.up(hidden).flatten(1))
                loss = nn.functional.cross_entropy(logits.float(), y) / 2
            loss.backward()
        optimizer.step()
        pruner.step()
    assert int((model.head.weight == 0).sum()) == round(0.8 * 980)
    assert torch.isfinite(model.head.weight).all()


def test_replicas_with_equal_weights_get_equal_masks() -> None:
    model = Net()
    twin = copy.deepcopy(model)
    pruners = [mct.Pruner(m, ramp(), scope="global") for m in (model, twin)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    for step in range(1, 13):
        for replica, optimizer, pruner in zip((model, twin), optimizers, pruners, strict=True):
            train_step(replica, optimizer, step)
            pruner.step()
    for first, second in zip(*(p.state_dict().items() for p in pruners), strict=True):
        assert first[0] == second[0]
        np.testing.assert_array_equal(first[1], second[1])


def test_a_compiled_model_is_pruned_under_its_own_names() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    pruner = mct.Pruner(compiled, ConstantSparsity(0.5, 2))
    for _ in range(3):
        optimizer.zero_grad()
        compiled(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
        pruner.step()
    assert list(pruner.masks) == ["0.weight", "2.weight"]
    assert int((model[0].weight == 0).sum()) == 12
    x = torch.randn(3, 6)
    torch.testing.assert_close(compiled(x), model(x))


def test_a_data_parallel_model_is_pruned_under_its_own_names() -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = nn.Linear(6, 4)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        pruner = mct.Pruner(parallel, ConstantSparsity(0.5, 1))
        parallel(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
        pruner.step()
        assert list(pruner.masks) == ["weight"]
        assert int((model.weight == 0).sum()) == 12
    finally:
        torch.distributed.destroy_process_group()


def test_a_pruner_survives_a_pickle() -> None:
    model = Net()
    pruner = mct.Pruner(model, ramp())
    for _ in range(5):
        pruner.step()
    twin: mct.Pruner = pickle.loads(pickle.dumps(pruner))
    for _ in range(4):
        pruner.step()
        twin.step()
    for (key, value), other in zip(
        pruner.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(value, other, err_msg=key)


def test_a_pruner_follows_to_another_module_with_the_same_names() -> None:
    model = Net()
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1, frequency=10), structure="channel")
    pruner.step()
    masks = pruner.masks
    other = copy.deepcopy(model)
    pruner.follow(other)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    train_step(other, optimizer, 1)
    pruner.step()
    for name, mask in masks.items():
        assert (other.get_parameter(name).detach()[~mask] == 0).all()
    with pytest.raises(moptcore.Error, match=r"features.0.weight must be a parameter.*got none"):
        pruner.follow(nn.Linear(2, 2))
    pruner.step()


@pytest.mark.parametrize(
    ("scope", "structure"),
    [("layer", None), ("global", None), ("layer", "channel"), ("layer", (2, 4))],
)
def test_zeros_stay_zero_through_quantization_aware_training(scope: str, structure: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    keys = list(model.state_dict())
    x, y = torch.randn(16, 4, 6, 6), torch.randint(0, 5, (16,))

    def train(module: nn.Module, pruner: mct.Pruner) -> None:
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
        for _ in range(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
            pruner.step()

    schedule = ramp(end=6, final=0.5, frequency=2)
    pruner = mct.Pruner(model, schedule, scope=scope, structure=structure)
    train(model, pruner)
    masks = pruner.masks
    assert set(masks) == {"0.weight", "5.weight"}
    quantized = mct.prepare_qat(model, x[:1])
    keeper = mct.Pruner(quantized, schedule, scope=scope, structure=structure)
    keeper.load_state_dict(pruner.state_dict())
    train(quantized, keeper)
    stripped = mct.strip(quantized)
    assert type(stripped) is nn.Sequential
    assert list(stripped.state_dict()) == keys
    for name, mask in masks.items():
        for module in (quantized, stripped):
            assert (module.get_parameter(name).detach()[~mask] == 0).all(), name


def test_a_schedule_that_never_prunes_is_reported() -> None:
    class Never:
        def sparsity(self, step: int) -> float:
            return 0.5

        def should_prune(self, step: int) -> bool:
            return False

    with pytest.warns(UserWarning, match="the schedule never prunes"):
        mct.Pruner(nn.Linear(2, 2), Never())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mct.Pruner(nn.Linear(2, 2), ConstantSparsity(0.5, begin_step=200_000))


def test_the_summary_shows_the_planned_updates() -> None:
    text = mct.Pruner(Net(), ramp()).summary()
    assert "3 of 3 parameters, 1130 weights, scope layer" in text
    # 0.8 - 0.8 (1 - t)^3 at t = 1/3, 2/3 and 1.
    for line in ("4         0.5630", "8         0.7704", "12        0.8000", "3 updates planned"):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"scope": "both"}, ValueError, "scope must be 'layer' or 'global', got 'both'"),
        ({"structure": "rows"}, ValueError, "structure must be None.*got 'rows'"),
        ({"structure": (4, 2)}, ValueError, r"must have n < m, got \(4, 2\)"),
        ({"structure": (0, 4)}, ValueError, r"integers >= 1, got \(0, 4\)"),
        ({"structure": {"block": (2,)}}, ValueError, "structure must be None"),
        ({"structure": {"blocks": (2, 2)}}, ValueError, "structure must be None"),
        ({"structure": (2, 4), "scope": "global"}, ValueError, "structure must be None with scope"),
        ({"schedule": 0.5}, TypeError, r"schedule must have sparsity\(step\)"),
        ({"model": [1]}, TypeError, "model must be a Module, got list"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type, text: str) -> None:
    given = {"model": nn.Linear(2, 2), "schedule": ConstantSparsity(0.5, 1), **arguments}
    with pytest.raises(error, match=rf"\[torch.Pruner\] .*{text}"):
        mct.Pruner(**given)


def test_a_schedule_that_leaves_its_range_is_refused_and_nothing_changes() -> None:
    class TooMuch:
        def sparsity(self, step: int) -> float:
            return 1.5

        def should_prune(self, step: int) -> bool:
            return True

    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        mct.Pruner(model, TooMuch()).step()
    assert torch.equal(model.weight, before)


def test_parameters_that_are_not_plain_are_reported() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 4, device="meta"), nn.Linear(3, 3))
    model[2].register_parameter("row", nn.Parameter(torch.ones(1, 3).expand(3, 3)))
    model[2].register_parameter("codes", nn.Parameter(torch.ones(2, 2).int(), requires_grad=False))
    rows = {row.name: row for row in mct.Pruner(model, ConstantSparsity(0.5, 1)).coverage}
    assert {name: row.reason for name, row in rows.items() if not row.done} == {
        "0.weight": "not initialized yet: run one batch first",
        "0.bias": "not initialized yet: run one batch first",
        "1.weight": "on the meta device",
        "2.row": "its elements share memory",
        "2.codes": "dtype torch.int32",
    }
    assert rows["2.weight"].done


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"include": 5}, "include must be a glob, a type, a callable or several of them, got 5"),
        ({"include": lambda module: True}, r"include callables must take .*lambda>\(module\)"),
        ({"exclude": [3.0]}, "exclude must hold globs, types or callables, got 3.0"),
        ({"include": "1.bias"}, r"1\.bias: it has 1 dimension; only parameters with 2 or more are"),
        ({"seed": "a"}, "seed must be an integer >= 0, got 'a'"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_arguments_of_another_kind_are_named(options: dict[str, Any], text: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with pytest.raises(moptcore.Error, match=rf"\[torch.Pruner\] .*{text}"):
        mct.Pruner(model, ConstantSparsity(0.5, 1), **options)


def test_excluding_a_parameter_that_is_no_candidate_is_allowed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), exclude="0.bias")
    assert [row.done for row in pruner.coverage] == [True]


def test_state_passes_through_a_safe_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.Linear(4, 2))
    pruner = mct.Pruner(model, ConstantSparsity(0.5, 1), seed=3)
    for _ in range(3):
        pruner.step()
    tensors = {key: torch.from_numpy(value) for key, value in pruner.state_dict().items()}
    torch.save({"model": model.state_dict(), "pruner": tensors}, tmp_path / "checkpoint.pt")
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["pruner"]
    other = mct.Pruner(copy.deepcopy(model), ConstantSparsity(0.5, 1))
    other.load_state_dict(found)
    expected, state = pruner.state_dict(), other.state_dict()
    assert set(state) == set(expected)
    assert all(np.array_equal(state[key], value) for key, value in expected.items())
    with pytest.raises(TypeError, match=r"state must be a mapping .*, got NoneType"):
        other.load_state_dict(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"structure": "channel"}, "structure must be that of the state, None, got 'channel'"),
        ({"structure": (2, 4)}, "structure"),
        ({"scope": "global"}, "scope"),
        ({"scores": "lamp"}, "scores"),
    ],
)
def test_states_of_other_settings_are_refused(options, named):
    schedule = ConstantSparsity(0.5, begin_step=1)
    pruner = moptcore.torch.Pruner(nn.Linear(8, 8), schedule)
    pruner.step()
    other = moptcore.torch.Pruner(nn.Linear(8, 8), schedule, **options)
    with pytest.raises(moptcore.FormatError, match=rf"\[torch.Pruner\] {named}"):
        other.load_state_dict(pruner.state_dict())
    assert other.masks == {}
    other.load_state_dict(pruner.state_dict(), strict=False)
    assert torch.equal(other.masks["weight"], pruner.masks["weight"])


def test_a_longer_schedule_may_go_on_with_a_state():
    pruner = moptcore.torch.Pruner(nn.Linear(8, 8), ConstantSparsity(0.5, begin_step=1))
    pruner.step()
    longer = moptcore.torch.Pruner(
        nn.Linear(8, 8), lambda step: 0.5 if step < 2 else 0.75, regrow=lambda step: 0.0
    )
    longer.load_state_dict(pruner.state_dict())
    longer.step()
    assert longer.sparsity.total == 0.75


def test_a_pruner_of_a_model_that_changed_leaves_other_models_alone():
    changed = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    stale = moptcore.torch.Pruner(changed, ConstantSparsity(0.5, begin_step=1))
    stale.step()
    mask = stale.masks["0.weight"]
    changed[1] = nn.Linear(8, 3)
    model = nn.Linear(8, 8)
    moptcore.torch.Clusterer(model, 4).step()
    moptcore.torch.cluster(nn.Linear(8, 8), 4)
    moptcore.torch.prune_with_reconstruction(nn.Linear(8, 8), [torch.randn(32, 8)], 0.5)
    # What is left of the changed model still has its mask.
    moptcore.torch.cluster(changed, 4, include="0")
    assert bool((changed[0].weight[~mask] == 0).all())
    with pytest.raises(moptcore.Error, match=r"1.weight must be a parameter of shape \(4, 8\)"):
        stale.step()


def test_data_of_scores_is_read_as_batches_of_which_there_is_one():
    x = torch.randn(32, 8)
    masks = []
    for data in (x, [x], iter([x])):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        schedule = ConstantSparsity(0.5, begin_step=1)
        pruner = moptcore.torch.Pruner(model, schedule, scores="wanda", data=data)
        pruner.step()
        masks.append(pruner.masks["weight"])
    assert torch.equal(masks[0], masks[1])
    for empty in ([], iter([])):
        pruner = moptcore.torch.Pruner(nn.Linear(8, 8), schedule, scores="wanda", data=empty)
        with pytest.raises(moptcore.Error, match="data must hold at least one batch"):
            pruner.step()


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        (ConstantSparsity(0.75, begin_step=0), 0.75),
        (PolynomialDecay(0.25, 0.75, 0, 200), 0.25),
        (PolynomialDecay(0.25, 0.75, 0, 2, power=1, frequency=1), 0.5),  # step 1 is due itself
    ],
)
def test_what_is_due_at_step_0_is_done_in_the_first_call(schedule, first):
    model = nn.Linear(8, 8)
    pruner = moptcore.torch.Pruner(model, schedule)
    assert pruner.step()
    assert pruner.sparsity.total == first
    assert int(pruner.state_dict()["prune/step"]) == 1


def test_the_summary_tells_of_step_0():
    pruner = moptcore.torch.Pruner(nn.Linear(8, 8), ConstantSparsity(0.75, 0, 300))
    assert "0         0.7500" in pruner.summary()
    assert "4 updates planned" in pruner.summary()
