# SPDX-License-Identifier: Apache-2.0
"""Channels cut out of torch modules: shapes, recipes, refusals, and equality with zeroed channels.

The independent truth is the whole module, whose channels are set to 0 by forward hooks.
"""

from __future__ import annotations

import copy

import moptcore
import moptcore.torch as mct
import pytest
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.skip = nn.Identity()
        if stride != 1 or inside != outside:
            self.skip = nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.skip(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.Sequential(Block(12, 12, 1), Block(12, 16, 2))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(self.depthwise(self.blocks(torch.tanh(self.stem(x)))))
        return self.head(x.flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, each: int) -> None:
        super().__init__()
        self.heads, self.each = heads, each
        self.qkv = nn.Linear(width, 3 * heads * each)
        self.out = nn.Linear(heads * each, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length = x.shape[0], x.shape[1]
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, self.each)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.softmax(q @ k.transpose(-1, -2) * self.each**-0.5, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.each))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(10), Attention(10, 4, 3)
        self.norm2 = nn.LayerNorm(10)
        self.feed = nn.Sequential(nn.Linear(10, 14), nn.GELU(), nn.Linear(14, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Literal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(128, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).view(-1, 128))


def settled(model: nn.Module) -> nn.Module:
    """Norms with statistics that are not those of a new layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def zeroed(model: nn.Module, removal: mct.ChannelRemoval, points: dict[str, str]) -> nn.Module:
    """The model whose modules `points` maps to a group write zeros where units of it are cut."""
    modules = dict(model.named_modules())
    groups = {group.name: group for group in removal.groups}
    for path, name in points.items():
        gone = sorted(set(range(groups[name].units)) - set(removal.recipe.kept[name]))

        def hook(module: nn.Module, args: object, value: torch.Tensor, gone: list[int] = gone):
            value = value.clone()
            value[:, gone] = 0
            return value

        modules[path].register_forward_hook(hook)
    return model


def test_a_residual_network_without_channels_computes_what_it_does_with_zeros() -> None:
    torch.manual_seed(0)
    model = settled(Residual())
    whole = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    removal = mct.remove_channels(model, x, 0.5)
    assert removal.model is model
    assert type(model.stem) is nn.Conv2d
    assert model.stem.out_channels == 6
    assert model.blocks[0].norm1.num_features == 6
    assert (model.depthwise.in_channels, model.depthwise.groups) == (8, 8)
    assert model.head.in_features == 8 * 16
    assert model.head.weight.shape == (5, 128)
    assert {row.name for row in removal.coverage if not row.done} == {"head.weight"}
    # Zeros where each group is written last: behind tanh, relu, and sigmoid, which makes 0.5 of 0.
    # The first block adds to the stem's channels what goes with them.
    points = {
        "stem": "stem.weight:0",
        "blocks.0": "stem.weight:0",
        "blocks.0.norm1": "blocks.0.conv1.weight:0",
        "blocks.1.norm1": "blocks.1.conv1.weight:0",
        "blocks.1": "blocks.1.conv2.weight:0",
    }
    assert set(points.values()) == set(removal.recipe.kept)
    masked = zeroed(whole, removal, points)
    # What the sigmoid makes of a channel that is gone is not read by the smaller head.
    kept = removal.recipe.kept["blocks.1.conv2.weight:0"]
    with torch.no_grad():
        whole.head.weight.unflatten(1, (16, 16))[:, sorted(set(range(16)) - set(kept))] = 0
    # float32 sums of at most 256 products, here in another order: below 1e-5 for values near 1.
    torch.testing.assert_close(model(x), masked(x), rtol=1e-5, atol=1e-5)


def test_a_recipe_makes_a_fresh_module_fit_the_state_dict() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 8, 8)
    model = settled(Residual())
    removal = mct.remove_channels(model, x, 0.4, scope="global", multiple_of=2)
    torch.manual_seed(2)
    fresh = Residual().eval()
    again = mct.remove_channels(fresh, x, recipe=removal.recipe.to_json())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    assert again.recipe == removal.recipe
    with pytest.raises(moptcore.FormatError, match="architecture"):
        mct.remove_channels(Literal(), torch.randn(1, 3, 4, 4), recipe=removal.recipe)


def test_whole_heads_go_and_the_number_of_heads_is_set_anew() -> None:
    torch.manual_seed(3)
    model, x = Encoder().eval(), torch.randn(2, 5, 10)
    whole = copy.deepcopy(model)
    removal = mct.remove_channels(model, x, 0.5)
    assert model.attention.heads == 2
    assert model.attention.each == 3
    assert model.attention.qkv.weight.shape == (18, 10)
    assert model.feed[0].out_features == 7
    # Sequences go through MatMul, whose weights are transposed: their outputs are axis 1.
    # Heads and hidden channels that the layers behind them multiply by 0 do not count.
    heads = removal.recipe.kept["attention.qkv.weight:1"]
    hidden = removal.recipe.kept["feed.0.weight:1"]
    with torch.no_grad():
        columns = whole.attention.out.weight.view(10, 4, 3)
        columns[:, sorted(set(range(4)) - set(heads))] = 0
        whole.feed[2].weight[:, sorted(set(range(14)) - set(hidden))] = 0
        torch.testing.assert_close(model(x), whole(x), rtol=1e-5, atol=1e-5)


def test_layers_that_are_excluded_keep_their_outputs_and_lose_inputs() -> None:
    torch.manual_seed(4)
    model, x = settled(Residual()), torch.randn(1, 3, 8, 8)
    removal = mct.remove_channels(model, x, 0.5, exclude=["stem", "blocks.1.*"])
    assert model.stem.out_channels == 12
    assert set(removal.recipe.kept) == {"blocks.0.conv1.weight:0"}
    assert model.blocks[0].conv2.in_channels == 6
    rows = {row.name: row for row in removal.coverage}
    assert not rows["stem.weight"].selected
    assert "go with" in rows["blocks.0.conv2.weight"].reason


def test_strict_refuses_what_stays_whole_and_changes_nothing() -> None:
    model = settled(Residual())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(moptcore.CoverageError, match="output of the model"):
        mct.remove_channels(model, torch.randn(1, 3, 8, 8), strict=True)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_literal_shapes_in_forward_are_named_and_nothing_is_changed() -> None:
    model = Literal()
    with pytest.raises(moptcore.UnsupportedError, match=r"view\(-1, 512\).* conv, head"):
        mct.remove_channels(model, torch.randn(2, 3, 4, 4))
    assert model.conv.weight.shape == (8, 3, 1, 1)
    assert model.conv.out_channels == 8


def test_bad_arguments_are_named() -> None:
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(moptcore.DTypeError, match="model must be a Module"):
        mct.remove_channels(x, x)
    with pytest.raises(moptcore.Error, match="scope must be"):
        mct.remove_channels(Residual(), x, scope="all")
    with pytest.raises(moptcore.Error, match="sparsity"):
        mct.remove_channels(Residual(), x, 1.5)
    with pytest.raises(moptcore.DTypeError, match="recipe must be"):
        mct.remove_channels(Residual(), x, recipe=3)
    with pytest.raises(moptcore.FormatError, match="JSON"):
        mct.remove_channels(Residual(), x, recipe="{")
