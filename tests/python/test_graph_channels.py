# SPDX-License-Identifier: Apache-2.0
"""Channels cut out of published networks: the pruned ones compute what the masked ones do."""

from __future__ import annotations

from pathlib import Path

import moptcore
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from moptcore import graph
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
# Units of each network that stay whole, besides those of inputs and outputs, for what reason.
FIXED = {
    "squeezenet": set(),
    "shufflenet": {"all together"},
    "inception_v1": {"neighbours", "all together"},
    "inception_v2": set(),
    "resnet50": set(),
    "densenet121": set(),
}


def network(name: str, seed: int) -> bytes:
    """The network with random weights instead of the constants that its file has."""
    rng = np.random.default_rng(seed)
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    readers = {
        name: (node.op_type, place)
        for node in reversed(model.graph.node)
        for place, name in enumerate(node.input)
    }
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in constants:
            nodes.append(node)
            continue
        shape = tuple(int(extent) for extent in constants[node.input[0]])
        values: npt.NDArray[np.float64]
        if len(shape) >= 2:
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif readers[node.output[0]] in {("BatchNormalization", 1), ("BatchNormalization", 4)}:
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.uniform(-0.2, 0.2, shape)
        tensor = numpy_helper.from_array(values.astype(np.float32), node.output[0])
        model.graph.initializer.append(tensor)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def random_recipe(
    model: graph.Model, sparsity: float, seed: int
) -> tuple[graph.ChannelRecipe, list[graph.ChannelGroup]]:
    rng = np.random.default_rng(seed)
    groups = list(graph.channel_groups(model))
    free = [group for group in groups if not group.fixed]
    scores = {group.name: rng.permutation(group.units).astype(float).tolist() for group in free}
    recipe = graph.choose_channels(model, sparsity, scores=scores)
    assert {group.name for group in free if group.units > 2} <= set(recipe.kept)
    return recipe, groups


@pytest.mark.parametrize("name", FIXED)
def test_what_stays_whole_in_a_network_has_a_reason(name: str) -> None:
    model = graph.load(network(name, 0))
    recipe, groups = random_recipe(model, 0.4, 1)
    assert len(recipe.kept) >= 13
    reasons = [group.reason for group in groups if group.fixed]
    known = FIXED[name] | {"input of the model", "output of the model", "sum to 1"}
    assert all(any(part in reason for part in known) for reason in reasons)
    assert graph.ChannelRecipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", ["shufflenet", "densenet121"])
def test_a_network_without_channels_computes_what_it_does_with_zeros(name: str) -> None:
    model = graph.load(network(name, 0))
    recipe, _ = random_recipe(model, 0.4, 1)
    pruned, masked = graph.remove_channels(model, recipe), graph.mask_channels(model, recipe)
    (info,) = model.inputs
    x = np.random.default_rng(2).standard_normal(info.shape).astype(np.float32)
    small = pruned.evaluate({info.name: x})
    large = masked.evaluate({info.name: x})
    for output, value in large.items():
        # Zeros added in between change no sum; other sums of float32 differ by rounding only.
        np.testing.assert_allclose(small[output], value, rtol=1e-5, atol=1e-5 * np.abs(value).max())


def test_a_recipe_of_another_network_is_refused() -> None:
    first = graph.load(network("squeezenet", 0))
    other = graph.load(network("shufflenet", 0))
    recipe = graph.choose_channels(first)
    assert graph.fingerprint(first) == graph.fingerprint(graph.load(network("squeezenet", 5)))
    name = next(iter(sorted(recipe.units)))
    with pytest.raises(
        moptcore.FormatError, match=f"architecture, got one with group '{name}', which the model"
    ):
        graph.remove_channels(other, recipe)
    resized = graph.ChannelRecipe("0" * 32, {name: recipe.units[name] + 1}, {name: [0]})
    with pytest.raises(
        moptcore.FormatError,
        match=f"{recipe.units[name] + 1} units in group '{name}', where the model has ",
    ):
        graph.mask_channels(first, resized)
    unlike = graph.ChannelRecipe("0" * 32, recipe.units, recipe.kept)
    with pytest.raises(moptcore.FormatError, match="same groups, but other nodes"):
        graph.mask_channels(first, unlike)
    for text, fault in (
        ("[]", r"a fault at byte 0: there must be a '{', not '\['$"),
        ("{", """a fault at byte 1: there must be a '"', not the end$"""),
    ):
        with pytest.raises(moptcore.FormatError, match="must be JSON, got " + fault):
            graph.ChannelRecipe.from_json(text)
    with pytest.raises(moptcore.Error, match="scope must be"):
        graph.choose_channels(first, scope="layer")
    made = graph.ChannelRecipe(recipe.fingerprint, recipe.units, recipe.kept)
    assert made == recipe
