# SPDX-License-Identifier: Apache-2.0
"""A training step with each technique beside the plain float step of the same model.

usage: python benchmarks/python/bench_training.py [model ...] [--seconds S]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import moptcore as mc
import moptcore.torch as mct
import torch
from harness import interleave, show
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Residual(nn.Module):
    """Two convolutions beside a shortcut, as in the ResNets for CIFAR (He et al. 2016)."""

    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(wide, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or wide != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


def resnet20(width: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    wide = width
    for scale in (1, 2, 4):
        for index in range(3):
            out = scale * width
            layers.append(Residual(wide, out, 2 if index == 0 and scale > 1 else 1))
            wide = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each normalized behind its sum."""

    def __init__(self, wide: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(wide, wide) for _ in range(4))
        self.up, self.down = nn.Linear(wide, hidden), nn.Linear(hidden, wide)
        self.norm1, self.norm2 = nn.LayerNorm(wide), nn.LayerNorm(wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, wide = x.shape
        shape = (batch, length, self.heads, wide // self.heads)
        q, k, v = (
            part(x).reshape(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) * shape[-1] ** -0.5, -1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, wide)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(256, 8, 1024) for _ in range(2)))
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20-0.27M": (lambda: resnet20(16), (64, 3, 32, 32)),
    "encoder": (Encoder, (16, 128, 256)),
    "resnet20-2.9M": (lambda: resnet20(52), (64, 3, 32, 32)),
}


def trainer(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, after: Callable[[], object] | None = None
) -> Callable[[], float]:
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if after is not None:
            after()
        return loss.item()

    return step


def main(name: str, seconds: float) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    base = build().train()
    x, y = torch.randn(shape), torch.randint(0, 10, (shape[0],))

    def pruned() -> Callable[[], float]:
        model = copy.deepcopy(base)
        schedule = mc.prune.ConstantSparsity(0.8, 0, frequency=1)
        return trainer(model, x, y, mct.Pruner(model, schedule).step)

    def clustered() -> Callable[[], float]:
        model = copy.deepcopy(base)
        return trainer(model, x, y, mct.Clusterer(model, 16).step)

    def quantized(mode: str) -> Callable[[], float]:
        return trainer(mct.prepare_qat(base, x, mode=mode).train(), x, y)

    ways = {
        "plain float step": trainer(copy.deepcopy(base), x, y),
        "prepare_qat, simulate": quantized("simulate"),
        "prepare_qat, integer": quantized("integer"),
        "Pruner, a new mask every step": pruned(),
        "Clusterer, 16 values": clustered(),
    }
    # Each starts from the same weights: losses differ by what rounding and masks do to them.
    first = {way: step() for way, step in ways.items()}
    plain = first["plain float step"]
    assert abs(first["prepare_qat, simulate"] - plain) < 0.1 * plain, first
    assert abs(first["prepare_qat, integer"] - first["prepare_qat, simulate"]) < 0.01 * plain, first
    timings = interleave(ways, seconds=seconds)
    show(f"training step, {name} {shape}, {torch.get_num_threads()} threads", timings,
         "plain float step")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(mc.get_num_threads())
    for each in options.models:
        main(each, options.seconds)
