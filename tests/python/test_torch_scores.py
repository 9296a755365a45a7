# SPDX-License-Identifier: Apache-2.0
"""Pruner by every score, with bounds, functions of the step, gradual N:M and regrowth."""

from __future__ import annotations

import io
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore.prune import ConstantSparsity, CosineRegrowth, GradualNM, LinearDecay
from moptcore.torch import masking
from torch import nn
from torch.nn import functional as F  # noqa: N812

ONCE = ConstantSparsity(0.5, 1, frequency=1000)


pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.fixture(params=["core", "composite"])
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also as on devices that the core cannot reach."""
    if request.param == "composite":
        for module in (masking, mct.pruner.scoring, mct.pruner.scoring.inputs):
            monkeypatch.setattr(module, "on_core", lambda tensor: False)
    return str(request.param)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.head(F.relu(self.fc(x.flatten(1))))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 2, 8, 8, generator=generator)
    return x, torch.randint(0, 5, (16,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x, y = batch(seed)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def with_gradients() -> Net:
    model = Net()
    x, y = batch(1)
    F.cross_entropy(model(x), y).backward()
    return model


def largest(scores: torch.Tensor, zeros: int) -> torch.Tensor:
    """The mask by its definition: all but the `zeros` smallest scores, the first of equal ones."""
    flat = scores.detach().double().numpy().ravel()
    order = np.lexsort((np.arange(flat.size), -flat))
    keep = np.zeros(flat.size, bool)
    keep[order[: flat.size - zeros]] = True
    return torch.from_numpy(keep.reshape(scores.shape))


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().double() for n, p in model.named_parameters() if p.dim() > 1}


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.double() for n, p in model.named_parameters() if p.dim() > 1}


def lamp(weight: torch.Tensor) -> torch.Tensor:
    """Square over the sum of the squares that are not smaller, one by one."""
    squares = weight.double().square().flatten()
    found = [value / squares[squares >= value].sum() for value in squares]
    return torch.stack(found).reshape(weight.shape)


@pytest.mark.parametrize("kind", ["taylor", "snip", "lamp"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_rank_by_formula(kind: str, scope: str, everywhere: str) -> None:
    model = with_gradients()
    weights, grads = weights_of(model), gradients_of(model)
    total = sum((w * grads[n]).abs().sum() for n, w in weights.items())
    scores = {
        "taylor": lambda n: (weights[n] * grads[n]).square(),
        "snip": lambda n: (weights[n] * grads[n]).abs() / total,
        "lamp": lambda n: lamp(weights[n]),
    }[kind]
    pruner = mct.Pruner(model, ONCE, scope=scope, scores=kind)
    assert pruner.step()
    if scope == "layer":
        for name, weight in weights.items():
            expected = largest(scores(name), round(weight.numel() * 0.5))
            # Scores of the core are float32: neighbours may change places, no more.
            assert int((pruner.masks[name] != expected).sum()) <= 2, name
            assert int((~pruner.masks[name]).sum()) == round(weight.numel() * 0.5)
    else:
        joined = torch.cat([scores(name).flatten() for name in weights])
        expected = largest(joined, round(joined.numel() * 0.5))
        found = torch.cat([pruner.masks[name].flatten() for name in weights])
        assert int((found != expected).sum()) <= 2
        assert int((~found).sum()) == round(joined.numel() * 0.5)


def test_channels_rank_by_the_sum_of_their_weights_scores(everywhere: str) -> None:
    model = with_gradients()
    weights, grads = weights_of(model), gradients_of(model)
    pruner = mct.Pruner(model, ONCE, structure="channel", scores="taylor")
    pruner.step()
    for name, weight in weights.items():
        sums = (weight * grads[name]).square().flatten(1).sum(1)
        expected = largest(sums, round(len(sums) * 0.5))
        assert torch.equal(pruner.masks[name].flatten(1)[:, 0], expected), name


def test_fpgm_prunes_the_channels_nearest_to_all_others(everywhere: str) -> None:
    model = Net()
    weights = weights_of(model)
    pruner = mct.Pruner(model, ONCE, structure="channel", scores="fpgm")
    pruner.step()
    for name, weight in weights.items():
        sums = torch.cdist(weight.flatten(1), weight.flatten(1)).sum(1)
        expected = largest(sums, round(len(sums) * 0.5))
        assert torch.equal(pruner.masks[name].flatten(1)[:, 0], expected), name


def test_batch_norm_scales_choose_the_channels_before_it(everywhere: str) -> None:
    model = Net()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.1, -2.0, 0.3, 1.0, -0.2, 0.9]))
    pruner = mct.Pruner(model, ONCE, structure="channel", scores="batch_norm")
    reasons = {row.name: (row.done, row.reason) for row in pruner.coverage}
    assert reasons["conv.weight"] == (True, "")
    assert reasons["fc.weight"][0] is False
    assert "no BatchNorm with weights is known behind it" in reasons["fc.weight"][1]
    pruner.step()
    assert pruner.masks["conv.weight"][:, 0, 0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(moptcore.CoverageError, match="no BatchNorm"):
        mct.Pruner(model, ONCE, structure="channel", scores="batch_norm", strict=True)


def test_wanda_ranks_each_output_by_weight_times_input_norm(everywhere: str) -> None:
    model = Net()
    seen: list[torch.Tensor] = []
    data = [batch(1), batch(2)]
    model.eval()
    handle = model.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    for x, _ in data:
        model(x)
    handle.remove()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = weights_of(model)
    pruner = mct.Pruner(model, ONCE, scores="wanda", data=data)
    pruner.step()
    assert model.training
    assert not model.fc._forward_pre_hooks
    norms = torch.cat(seen).norm(dim=0)
    for row in range(12):
        expected = largest(weights["fc.weight"][row].abs() * norms, 48)
        assert torch.equal(pruner.masks["fc.weight"][row], expected)
    norms = torch.cat([x for x, _ in data]).double().square().sum((0, 2, 3)).sqrt()
    ranked = weights["conv.weight"].abs() * norms.reshape(1, 2, 1, 1)
    for row in range(6):
        assert torch.equal(pruner.masks["conv.weight"][row], largest(ranked[row], 9))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) or key.endswith("weight")


def test_obs_divides_by_the_inverse_hessian_of_the_inputs(everywhere: str) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ConvTranspose1d(1, 1, 1))
    x = torch.randn(50, 6) @ torch.randn(6, 6)
    weight = model[0].weight.detach().double()
    hessian = 2 * x.double().T @ x.double()
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(6)
    expected = largest(weight.square() / (2 * torch.linalg.inv(damped).diagonal()), 12)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x)

    pruner = mct.Pruner(First(), ONCE, scores="obs", data=[x])
    pruner.step()
    assert torch.equal(pruner.masks["layers.0.weight"], expected)
    assert "the inputs of ConvTranspose1d are not known" in pruner.coverage[1].reason
    convolution = nn.Conv2d(2, 3, 2, stride=2, padding=1, dilation=1)
    pruner = mct.Pruner(convolution, ONCE, scores="obs", data=[torch.randn(8, 2, 5, 5)])
    pruner.step()
    assert int((convolution.weight == 0).sum()) == 12
    grouped = mct.Pruner(
        nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Linear(2, 2)), ONCE, scores="wanda", data=[]
    )
    assert "groups must be 1, got 2" in grouped.coverage[0].reason


def test_movement_sums_up_over_all_steps_and_survives_a_checkpoint() -> None:
    def fresh() -> tuple[Net, torch.optim.Optimizer, mct.Pruner]:
        torch.manual_seed(3)
        model = Net()
        schedule = LinearDecay(0.0, 0.8, begin_step=3, end_step=9, frequency=3)
        return (
            model,
            torch.optim.Adam(model.parameters(), 0.01),
            mct.Pruner(model, schedule, scores="movement"),
        )

    model, optimizer, pruner = fresh()
    sums = {name: torch.zeros_like(weight) for name, weight in weights_of(model).items()}
    saved = b""
    for step in range(1, 13):
        train_step(model, optimizer, step)
        if step <= 6:
            for name, weight in weights_of(model).items():
                alive = pruner.masks.get(name, torch.ones_like(weight, dtype=torch.bool))
                sums[name] -= torch.where(alive, weight * gradients_of(model)[name], 0.0)
        pruner.step()
        if step == 4:
            file = io.BytesIO()
            state = {k: torch.from_numpy(v) for k, v in pruner.state_dict().items()}
            torch.save([model.state_dict(), optimizer.state_dict(), state], file)
            saved = file.getvalue()
        if step == 6:
            for name, score in sums.items():
                expected = largest(score, round(score.numel() * 0.4))
                assert int((pruner.masks[name] != expected).sum()) <= 2
    again, optimizer, resumed = fresh()
    weights, moments, state = torch.load(io.BytesIO(saved), weights_only=True)
    again.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    resumed.load_state_dict(state)
    for step in range(5, 13):
        train_step(again, optimizer, step)
        resumed.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    for key, array in pruner.state_dict().items():
        np.testing.assert_array_equal(array, resumed.state_dict()[key])
    with pytest.raises(
        moptcore.FormatError, match="scores must be that of the state, 'movement', got 'magnitude'"
    ):
        mct.Pruner(again, ONCE).load_state_dict(pruner.state_dict())


def test_a_function_may_score(everywhere: str) -> None:
    model = Net()
    asked = []

    def score(name: str, parameter: torch.Tensor) -> torch.Tensor:
        asked.append(name)
        return torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)

    for structure in (None, (2, 4), {"block": (2, 2)}, "channel"):
        pruner = mct.Pruner(Net(), ONCE, scores=score, structure=structure, include="head")
        pruner.step()
        mask = pruner.masks["head.weight"]
        assert int((~mask).sum()) in (30, 24, 36)
        assert mask[-1, -1]
    assert asked == ["head.weight"] * 4
    wrong: Any = lambda name, parameter: parameter[0]  # noqa: E731
    with pytest.raises(ValueError, match=r"tensor of shape \(6, 2, 3, 3\) for conv.weight"):
        mct.Pruner(model, ONCE, scores=wrong).step()
    with pytest.raises(moptcore.NonFiniteError, match=r"conv\.weight"):
        mct.Pruner(model, ONCE, scores=lambda _, p: p * torch.nan).step()


def test_a_missing_gradient_is_named_and_the_step_is_not_counted() -> None:
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for kind in ("taylor", "snip", "movement"):
        pruner = mct.Pruner(model, ONCE, scores=kind)
        with pytest.raises(ValueError, match=r"conv.weight must have a gradient .*zero_grad"):
            pruner.step()
        assert int(pruner.state_dict()["prune/step"]) == 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_does_not_fit_is_refused() -> None:
    model = Net()
    for extra, text in [
        ({"scores": "luck"}, "scores must be one of magnitude, lamp"),
        ({"scores": "fpgm"}, "unless structure='channel'"),
        ({"scores": "wanda"}, "unless data= is given"),
        ({"minimum": {"hed": 0.5}}, "minimum patterns must match .*'hed'"),
        ({"maximum": 1.5}, r"maximum must be in \[0, 1\), got 1.5"),
        ({"minimum": 0.5, "structure": (2, 4)}, "minimum must be None"),
        ({"regrow": 0.3}, "regrow must be a CosineRegrowth or a function"),
        ({"regrow": lambda step: 0.3, "structure": "channel"}, "with structure=None"),
        ({"regrow": lambda step: 0.3, "structure": (2, 4)}, r"with structure=None.* \(2, 4\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            mct.Pruner(model, ONCE, **extra)
    with pytest.raises(ValueError, match=r"structure must be the schedule's \(2, 4\), got None"):
        mct.Pruner(model, GradualNM(2, 4, 0, 10))
    with pytest.raises(ValueError, match="data must hold at least one batch, got none"):
        mct.Pruner(model, ONCE, scores="wanda", data=[]).step()


def test_bounds_hold_for_each_layer() -> None:
    model = Net()
    pruner = mct.Pruner(
        model, ConstantSparsity(0.8, 1), minimum={"conv*": 0.9}, maximum={"head.weight": 0.25}
    )
    pruner.step()
    share = pruner.sparsity.layers
    assert share == {
        "conv.weight": round(0.9 * 108) / 108,
        "fc.weight": round(0.8 * 1152) / 1152,
        "head.weight": 15 / 60,
    }
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
    for scores in ("magnitude", "lamp"):
        pruner = mct.Pruner(
            model, ConstantSparsity(0.5, 1), scope="global", maximum={"head": 0.25}, scores=scores
        )
        pruner.step()
        assert pruner.sparsity.layers["head.weight"] <= 0.25
        assert int(sum((~m).sum() for m in pruner.masks.values())) == round(0.5 * 1320)
    fresh = Net()
    with torch.no_grad():
        fresh.fc.weight.mul_(100.0)
    pruner = mct.Pruner(
        fresh,
        LinearDecay(0.0, 0.6, begin_step=1, end_step=3, frequency=1),
        scope="global",
        minimum={"fc": 0.5},
    )
    for step, wanted in [(1, 0.0), (2, 0.3), (3, 0.6)]:
        pruner.step()
        assert int(sum((~m).sum() for m in pruner.masks.values())) == round(wanted * 1320), step
    assert pruner.sparsity.layers["fc.weight"] >= 0.5


def test_a_function_of_the_step_is_a_schedule() -> None:
    model = nn.Linear(10, 10)
    pruner = mct.Pruner(model, lambda step: 0.1 * min(step // 3, 5))
    renewed = [step for step in range(1, 25) if pruner.step()]
    assert renewed == [1, 3, 6, 9, 12, 15]
    assert int((model.weight == 0).sum()) == 50
    with pytest.raises(ValueError, match=r"schedule must return values in \[0, 1\), got 2.0"):
        mct.Pruner(model, lambda step: 2.0).step()


def test_gradual_n_of_m_thins_out_to_its_end(everywhere: str) -> None:
    model = Net()
    schedule = GradualNM(1, 4, 0, 30, frequency=5)
    pruner = mct.Pruner(model, schedule, structure=(1, 4), include="fc")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    counts = []
    for step in range(1, 32):
        train_step(model, optimizer, step)
        if pruner.step():
            groups = pruner.masks["fc.weight"].reshape(-1, 4).sum(1)
            assert (groups == schedule.kept(step)).all()
            counts.append(int(groups[0]))
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 3
    assert ((model.fc.weight.reshape(-1, 4) != 0).sum(1) <= 1).all()


def test_regrowth_exchanges_small_weights_for_large_gradients() -> None:
    model = Net()
    schedule = CosineRegrowth(0.3, 4, 20, 4)
    pruner = mct.Pruner(model, ONCE, include="fc", regrow=schedule)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    exchanged = []
    for step in range(1, 20):
        train_step(model, optimizer, step)
        before = pruner.masks.get("fc.weight")
        weight, grad = model.fc.weight.detach().clone(), model.fc.weight.grad.clone()
        pruner.step()
        mask = pruner.masks["fc.weight"]
        assert int(mask.sum()) == 576
        assert bool((model.fc.weight[~mask] == 0).all())
        if before is None or torch.equal(mask, before):
            continue
        grown, dropped = mask & ~before, before & ~mask
        exchanged.append((step, int(grown.sum())))
        assert bool((model.fc.weight[grown] == 0).all())
        assert grad[grown].abs().min() >= grad[~mask & ~dropped].abs().max()
        # The smallest of those that were kept, but for some of them grown again at once.
        count = round(576 * schedule.fraction(step))
        assert weight[dropped].abs().max() <= weight[before].abs().kthvalue(count).values
    assert [step for step, _ in exchanged] == [4, 8, 12, 16]
    assert all(0 < count <= round(576 * schedule.fraction(step)) for step, count in exchanged)
    by_hand = mct.Pruner(Net(), ONCE, regrow=lambda step: 0.1 if step == 2 else 0.0)
    by_hand.step()
    with pytest.raises(ValueError, match="must have a gradient"):
        by_hand.step()
