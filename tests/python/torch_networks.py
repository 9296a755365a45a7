# SPDX-License-Identifier: Apache-2.0
"""Small networks of the shapes that people train, for the tests of the PyTorch room."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Residual(nn.Module):
    """Two residual blocks written by hand, the second with a strided shortcut."""

    class Block(nn.Module):
        def __init__(self, wide: int, out: int, stride: int = 1) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(wide, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
            self.down = None
            if stride != 1 or wide != out:
                self.down = nn.Sequential(
                    nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.bn1(self.conv1(x)), inplace=True)
            y = self.bn2(self.conv2(y))
            y += x if self.down is None else self.down(x)
            return F.relu(y)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.one = self.Block(width, width)
        self.two = self.Block(width, 2 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 2)
        x = self.pool(self.two(self.one(x)))
        x = x.view(x.size(0), -1)
        x = F.dropout(x, 0.1, training=self.training)
        return self.head(x)


class Separable(nn.Module):
    """Depthwise and grouped convolutions, ReLU6, a squeeze-and-excite gate, spatial mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.depth = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 16, 1)
        self.gate1 = nn.Conv2d(16, 4, 1)
        self.gate2 = nn.Conv2d(4, 16, 1)
        self.group = nn.Conv2d(16, 16, 3, padding="same", groups=4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.bn(self.depth(self.stem(x))))
        x = F.hardswish(self.point(x))
        gate = torch.sigmoid(self.gate2(F.relu(self.gate1(F.adaptive_avg_pool2d(x, 1)))))
        x = torch.relu(self.group(x * gate))
        return self.head(x.mean((2, 3)))


class Branches(nn.Module):
    """Concatenation, chunks, average pooling and an activation with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1)
        self.right = nn.Conv2d(2, 6, 1)
        self.mix = nn.Conv2d(12, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(4 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = self.right(x)
        both = torch.cat([F.relu(self.left(x)), F.leaky_relu(right), x], 1)
        y = F.avg_pool2d(F.relu(self.norm(self.mix(both))), 2)
        a, b = y.chunk(2, dim=1)
        return self.head(torch.flatten(a + b, 1))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Each network with the shape of one sample."""
    return {
        "mlp": (
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(64, 48),
                nn.BatchNorm1d(48),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(48, 32),
                nn.ReLU(),
                nn.Linear(32, 10),
            ),
            (1, 8, 8),
        ),
        "cnn": (
            nn.Sequential(
                nn.Conv2d(1, 8, 3),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(64, 10),
            ),
            (1, 14, 14),
        ),
        "residual": (Residual(), (1, 16, 16)),
        "separable": (Separable(), (3, 16, 16)),
        "branches": (Branches(), (2, 8, 8)),
        "conv1d": (
            nn.Sequential(
                nn.Conv1d(3, 8, 5, stride=2),
                nn.BatchNorm1d(8),
                nn.ReLU(),
                nn.MaxPool1d(2),
                nn.Conv1d(8, 12, 3, dilation=2),
                nn.ReLU(),
                nn.AdaptiveAvgPool1d(1),
                nn.Flatten(),
                nn.Linear(12, 10),
            ),
            (3, 40),
        ),
        "conv3d": (
            nn.Sequential(
                nn.Conv3d(2, 4, 3, padding=1),
                nn.BatchNorm3d(4),
                nn.ReLU(),
                nn.MaxPool3d(2),
                nn.Conv3d(4, 8, 2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(8 * 3 * 3 * 3, 10),
            ),
            (2, 8, 8, 8),
        ),
    }


def trained(model: nn.Module, shape: tuple[int, ...], steps: int = 6) -> list[float]:
    """A few steps on one fixed batch; the losses."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(16, *shape, generator=generator)
    y = torch.randint(0, 10, (16,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Preactivated(nn.Module):
    """BatchNorm and an in-place ReLU before the convolutions, which nothing can be folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.conv1(torch.relu_(self.norm(x)))
        x = x + self.conv2(F.relu(self.norm2(y)))
        return self.head(F.adaptive_avg_pool2d(F.relu(x), (1, 1)).flatten(1))


class Dense(nn.Module):
    """Every block reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(2, 8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, 1, 1))
            for i in range(3)
        )
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        return self.head(x.mean([2, 3]))


class Hourglass(nn.Module):
    """Down, up and across; a map as output."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.down(x))
        b = F.interpolate(F.relu(self.mid(F.max_pool2d(a, 2))), scale_factor=2)
        return self.up(torch.cat([a, b], 1))


class Shuffled(nn.Module):
    """Channel shuffle by views whose sizes are computed from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.Conv2d(8, 8, 1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.group(torch.cat([x, x, x[:, :2]], 1))))
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        left, right = x.chunk(2, 1)
        x = self.depth(torch.cat((left, right), dim=1))
        x = F.avg_pool2d(x, x.shape[2:])
        return self.head(x.reshape(x.shape[0], -1))


class Attention(nn.Module):
    """Tokens of an image: attention written out, LayerNorm, a learned position, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.position = nn.Parameter(0.1 * torch.randn(64, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2)) + self.position
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, c))
        x = x + self.mlp(self.norm(x))
        return self.head(x.mean(1))


class Functional(nn.Module):
    """Parameters of its own instead of layers, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(0.2 * torch.randn(3, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.matrix = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        return F.linear(torch.flatten(F.adaptive_max_pool2d(x, 1), 1), self.matrix)


class Dead(nn.Module):
    """Channels of no weight or no BatchNorm factor, whose bias still counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 36, 3)
        with torch.no_grad():
            self.conv.weight[:3] = 0.0
            self.norm.weight[2:5] = 0.0
            self.norm.weight[5] = -1e-9
            self.norm.bias.uniform_(-1.0, 1.0)
            self.head.weight[0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).flatten(1))


PATTERNS = (Preactivated, Dense, Hourglass, Shuffled, Attention, Functional, Dead)
"""Networks that take images [3, 8, 8]."""
