# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
from __future__ import annotations
import collections.abc
import typing

__all__: list[str] = [
    "ChannelGroup",
    "ChannelMember",
    "ChannelRecipe",
    "Model",
    "ModelCost",
    "NodeCost",
    "OptimizeReport",
    "ValueInfo",
    "Verification",
    "channel_groups",
    "channel_scores",
    "choose_channels",
    "count",
    "fingerprint",
    "infer_types",
    "load",
    "mask_channels",
    "optimize",
    "pass_names",
    "random_inputs",
    "remove_channels",
    "types",
    "verify_equal",
]

class ValueInfo:
    """
    An input or output: its name, dtype and shape.
    """
    def __repr__(self) -> str: ...
    @property
    def dtype(self) -> str:
        """
        NumPy's or ml_dtypes' name; 'string'; 'sequence(float32)'; 'optional(int64)'.
        """
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[typing.Any, ...] | None:
        """
        Extents: numbers, names of symbols, or None; None where the rank is unknown.
        """

class Model:
    """
    A model: what ONNX describes, or a file of it holds.
    """
    def __repr__(self) -> str: ...
    def evaluate(
        self,
        inputs: dict[str, typing.Any],
        outputs: collections.abc.Sequence[str] | None = None,
        *,
        seed: int = 0,
    ) -> dict[str, typing.Any]:
        """
        The outputs by name, or the values named in `outputs`, of arrays by name.

        Plain loops, one operator after the other: slow, and what faster ways are compared
        with. Arrays of every framework are read; NumPy arrays are returned, lists of them for
        sequences, None for an optional without a value.
        """
    def save(
        self,
        path: typing.Any,
        *,
        opset: int | None = None,
        external_file: str | None = None,
        external_from: int = 1024,
    ) -> None:
        """
        Writes an ONNX file, which appears at `path` whole or not at all.

        `opset` is that of `to_bytes`.
        `external_file` names a file beside it, which must not exist yet, for the weights of
        `external_from` bytes or more: models over 2 GiB need one.
        """
    def summary(self) -> str:
        """
        A table: each node with what it gives, its parameters and multiplications, and the sums; `count` has the numbers.
        """
    def to_bytes(self, *, opset: int | None = None) -> bytes:
        """
        The bytes of an ONNX file, at most 2 GiB of them.

        `opset` asks for a newer version of ONNX's operators than the model's, of 13 to 28, or
        for the model's own; without it a model below 13 is written at 13.
        """
    @property
    def inputs(self) -> list[ValueInfo]:
        """
        The inputs that a run must be given.
        """
    @property
    def opsets(self) -> dict[str, int]:
        """
        The version of each domain of operators; '' is ONNX's own.
        """
    @property
    def outputs(self) -> list[ValueInfo]:
        """
        What a run returns.
        """

class NodeCost:
    """
    What one node costs.
    """
    @property
    def macs(self) -> int | None:
        """
        Multiplications with an addition; None where extents are unknown.
        """
    @property
    def name(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def output_bytes(self) -> int | None:
        """
        None where extents are unknown.
        """
    @property
    def outputs(self) -> list[ValueInfo]: ...
    @property
    def parameter_bytes(self) -> int: ...
    @property
    def parameters(self) -> int: ...

class ModelCost:
    """
    What a model costs; str() is a table.
    """
    def __str__(self) -> str: ...
    @property
    def activation_bytes(self) -> int: ...
    @property
    def complete(self) -> bool:
        """
        False where some extents are unknown: sums are of the known ones.
        """
    @property
    def macs(self) -> int: ...
    @property
    def nodes(self) -> list[NodeCost]: ...
    @property
    def parameter_bytes(self) -> int: ...
    @property
    def parameters(self) -> int: ...

class Verification:
    """
    What a comparison of two models has found.
    """
    @property
    def difference(self) -> float:
        """
        The largest one, in parts of the output's magnitude.
        """
    @property
    def output(self) -> str:
        """
        Where it is.
        """
    @property
    def ran(self) -> bool:
        """
        False where the model does not run on made-up input: nothing is known then.
        """
    @property
    def reason(self) -> str:
        """
        Why it did not run.
        """

class OptimizeReport:
    """
    What optimize has done.
    """
    def __repr__(self) -> str: ...
    @property
    def nodes_after(self) -> int: ...
    @property
    def nodes_before(self) -> int: ...
    @property
    def passes(self) -> dict[str, int]:
        """
        How many nodes or values each pass rewrote.
        """
    @property
    def rounds(self) -> int: ...
    @property
    def verification(self) -> Verification: ...

class ChannelMember:
    """
    Where the units of a group lie along one axis of a tensor.
    """
    def __repr__(self) -> str: ...
    @property
    def axis(self) -> int: ...
    @property
    def block(self) -> int:
        """
        Indices of each unit.
        """
    @property
    def indices(self) -> list[int]:
        """
        Along the axis; those of unit u begin at u * block.
        """
    @property
    def initializer(self) -> bool: ...
    @property
    def node(self) -> str:
        """
        The node that writes the tensor; of a weight, the first that reads it.
        """
    @property
    def offset(self) -> int:
        """
        The least of the indices.
        """
    @property
    def tensor(self) -> str: ...

class ChannelGroup:
    """
    Channels that can be cut only together, once for each unit.
    """
    def __repr__(self) -> str: ...
    @property
    def extent(self) -> int:
        """
        Channels of the first member.
        """
    @property
    def fixed(self) -> bool:
        """
        True where none can be cut.
        """
    @property
    def members(self) -> list[ChannelMember]:
        """
        Weights first.
        """
    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str:
        """
        Why they are fixed.
        """
    @property
    def unit(self) -> int:
        """
        Channels of the first member in one unit.
        """
    @property
    def units(self) -> int: ...

class ChannelRecipe:
    """
    Which units of each group stay, and of which architecture.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    @staticmethod
    def from_json(json: str) -> ChannelRecipe:
        """
        Raises FormatError, which names the place, for text that is no recipe.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __init__(
        self,
        fingerprint: str,
        units: collections.abc.Mapping[str, int],
        kept: collections.abc.Mapping[str, collections.abc.Sequence[int]],
    ) -> None:
        """
        For each group in `kept` the indices of the units that stay, ascending, and in
        `units` how many there were.
        """
    def __repr__(self) -> str: ...
    def to_json(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def kept(self) -> dict[str, list[int]]:
        """
        The units that stay, by group; other groups stay whole.
        """
    @property
    def units(self) -> dict[str, int]:
        """
        How many units the groups had.
        """

def channel_groups(model: Model) -> list[ChannelGroup]:
    """
    The groups of channels that hold weights, in the order of the nodes.

    What is not understood is fixed, with the reason.
    """

def channel_scores(model: Model, ord: float = 2.0) -> dict[str, list[float]]:
    """
    The norm of all weights of each unit that can be cut, by name of the group.
    """

def choose_channels(
    model: Model,
    sparsity: float = 0.5,
    *,
    scope: str = "group",
    ord: float = 2.0,
    scores: collections.abc.Mapping[str, collections.abc.Sequence[float]] | None = None,
    min_units: int = 1,
    multiple_of: int = 1,
    shares: collections.abc.Mapping[str, float] = {},
    take: collections.abc.Callable[[ChannelGroup], bool] | None = None,
) -> ChannelRecipe:
    """
    A recipe that cuts the share `sparsity` of the units, those of least score.

    scope: 'group', or 'global', where all units are ranked together, each by its score
    over the mean of its group. scores: by group a number for each unit, instead of the
    norm of order `ord` of all its weights. min_units: that every group keeps.
    multiple_of: what the channels that stay in a group are a multiple of. shares: by
    group, instead of sparsity. take: says of a ChannelGroup whether it may be cut.
    """

def count(
    model: Model,
    inputs: collections.abc.Mapping[str, collections.abc.Sequence[int | None]] | None = None,
) -> ModelCost:
    """
    Parameters, multiplications and bytes of each node and of all, with inputs of these
    shapes. Bodies of loops count once.
    """

def fingerprint(model: Model) -> str:
    """
    Equal for models that differ in weights and in the names of values only.
    """

def infer_types(
    model: Model,
    inputs: collections.abc.Mapping[str, collections.abc.Sequence[int | None]] | None = None,
) -> Model:
    """
    A copy of the model with the types and shapes of all its values.

    `inputs` gives inputs another shape, such as {'x': (1, 3, None, None)}; None leaves an
    extent as it is. Extents that depend on symbols are expressions of them, as text.
    Raises FormatError, naming the node, where shapes contradict each other.
    """

def load(
    path_or_bytes: typing.Any, *, external_directory: typing.Any | None = None, max_bytes: int = 0
) -> Model:
    """
    The model in an ONNX file, or in the bytes of one.

    Weights in files of their own are read below the model's folder, or below
    `external_directory`, which bytes need. `max_bytes` bounds what the model takes beside
    its file; 0 is three times the file and 32 MiB. Raises FormatError, naming the field, for
    a broken model, UnsupportedError for one that is too old or too new.
    """

def mask_channels(model: Model, recipe: ChannelRecipe) -> Model:
    """
    A model in the old shapes that computes what remove_channels' model does.

    The same units are 0 wherever they are added up.
    """

def optimize(
    model: Model,
    *,
    without: collections.abc.Sequence[str] = [],
    only: collections.abc.Sequence[str] = [],
    attention: bool = False,
    verify: bool = False,
    max_fold_bytes: int = 67108864,
    extent: int | None = None,
    seed: int = 0,
) -> tuple[Model, OptimizeReport]:
    """
    A rewritten copy of the model that computes the same, and a report.

    `without` and `only` name passes. `attention` makes Attention of its parts, of models
    below opset 23 in opset 23. `verify` runs the model on random input before and
    after each pass that changes something and raises where outputs differ; symbols of
    inputs have the extent `extent` then, None the first of 3, 16, 32, 48, 64 and 224 at
    which the model runs. Warns where it runs at none.
    """

def pass_names() -> list[str]:
    """
    The passes of optimize, in their order.
    """

def random_inputs(model: Model, *, extent: int = 3, seed: int = 0) -> dict[str, typing.Any]:
    """
    Inputs that verification makes up: floats in [-1, 1], whole numbers 0 and 1.
    """

def remove_channels(model: Model, recipe: ChannelRecipe) -> Model:
    """
    A model without the units that the recipe does not keep.

    Raises FormatError for a recipe of another architecture.
    """

def types(model: Model) -> dict[str, typing.Any]:
    """
    ValueInfo by name of the inputs, outputs and values between whose type is known.
    """

def verify_equal(
    before: Model, after: Model, *, extent: int | None = None, seed: int = 0, tolerance: float = 0.0
) -> Verification:
    """
    Runs both models on the same random input; raises where outputs differ, warns where they
    do not run. `extent` is that of `optimize`.
    """
