# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import moptcore
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional


def data(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.randint(0, 4, (count,))


def test_the_figures_are_those_of_the_model_and_its_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[:4] = 0.0
    model[1].eval()
    x, y = data()
    path = tmp_path / "model.pt"
    found = mct.evaluate(model, (x, y), batch_size=7, path=path, repeats=20)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    with torch.no_grad():
        logits = model.eval()(x)
    assert found.accuracy == float((logits.argmax(1) == y).double().mean())
    # 50 float losses of order 1, summed in double by one and in float by the other.
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, y)), rel=1e-5)
    assert found.parameters == 6 * 8 + 8 + 8 + 8 + 8 * 4 + 4
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert found.parameters - found.nonzeros == zeros >= 24
    assert found.size_bytes == path.stat().st_size
    assert 0 < found.gzip_bytes < found.size_bytes
    assert 0 < found.latency.p50 <= found.latency.p90 <= found.latency.p99
    assert found.latency.repeats == 20


def test_arrays_and_loaders_give_the_same_accuracy() -> None:
    model = nn.Linear(6, 4)
    x, y = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    found = [
        mct.evaluate(model, source, latency=False)
        for source in ((x, y), (x.numpy(), y.numpy()), loader, [(x[:30], y[:30]), (x[30:], y[30:])])
    ]
    assert len({each.accuracy for each in found}) == 1
    assert all(each.latency is None for each in found)


def test_the_latency_is_that_of_the_asked_batch() -> None:
    shapes = []

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(x.shape))
            return super().forward(x)

    mct.evaluate(Spy(6, 4), data(5), latency_batch=1, warmup=1, repeats=2)
    assert shapes == [(5, 6), (1, 6), (1, 6), (1, 6)]


def test_bad_input_is_refused() -> None:
    model = nn.Linear(6, 4)
    with pytest.raises(TypeError, match=r"\[torch.evaluate\] model must be a Module, got str"):
        mct.evaluate("model", data())
    with pytest.raises(moptcore.Error, match="data must hold at least one sample"):
        mct.evaluate(model, [])
    with pytest.raises(moptcore.Error, match="one y per x, got 5 and 3"):
        mct.evaluate(model, (np.zeros((5, 6)), np.zeros(3)))
    with pytest.raises(moptcore.Error, match="batch_size must be >= 1, got 0"):
        mct.evaluate(model, data(), batch_size=0)
    with pytest.raises(moptcore.Error, match=r"data must yield \(x, y\), got Tensor"):
        mct.evaluate(model, [data()[0]])


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def _moptcore_strip_(self) -> nn.Module:
        return self.inner


def test_strip_puts_plain_modules_back_under_their_names() -> None:
    shared = Wrapper(nn.Linear(3, 3))
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model = nn.Sequential(Wrapper(Wrapper(plain)), shared, nn.Sequential(shared, nn.ReLU()))
    stripped = mct.strip(Wrapper(model))
    assert stripped is model
    assert stripped[0] is plain
    assert stripped[1] is shared.inner is stripped[2][0]
    assert not any(isinstance(module, Wrapper) for module in stripped.modules())
    assert list(stripped.state_dict())[:2] == ["0.0.weight", "0.0.bias"]


def test_strip_leaves_a_pruned_model_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    pruner = mct.Pruner(model, moptcore.prune.ConstantSparsity(0.5, 1))
    pruner.step()
    assert mct.strip(model) is model
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert int((model[0].weight == 0).sum()) == 8
    with pytest.raises(TypeError, match=r"\[torch.strip\] model must be a Module, got str"):
        mct.strip("model")


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 1]), r"y in \[0, 2\), got 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 1]), r"y in \[0, 2\), got -1"),
        (torch.zeros(4, 3), torch.zeros(4), "y of an integer dtype, got torch.float32"),
        (torch.zeros(4, 3), torch.zeros(4, 2).long(), r"rows' shape \(4,\), got \(4, 2\)"),
        (torch.zeros(4, 3).double(), torch.zeros(4).long(), "x that the model takes, got torch.fl"),
        (torch.zeros(4, 5), torch.zeros(4).long(), r"the model takes, got torch.float32 \(4, 5\)"),
    ],
)
def test_data_that_does_not_fit_is_named(x: torch.Tensor, y: torch.Tensor, text: str) -> None:
    with pytest.raises(moptcore.Error, match=text):
        mct.evaluate(torch.nn.Linear(3, 2), (x, y), latency=False)


def test_an_axis_and_sizes_of_another_kind_are_named() -> None:
    model, data = torch.nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4).long())
    with pytest.raises(moptcore.Error, match=r"axis must be one of .*\(4, 2\), got 2"):
        mct.evaluate(model, data, axis=2, latency=False)
    with pytest.raises(TypeError, match="batch_size must be an integer, got '8'"):
        mct.evaluate(model, data, batch_size="8")  # type: ignore[arg-type]
