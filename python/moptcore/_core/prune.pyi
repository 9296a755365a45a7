# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Masks of exact sparsity, and schedules that say how sparse.
"""

from __future__ import annotations
import typing

ArrayLike = typing.Any
__all__: list[str] = [
    "ConstantSparsity",
    "CosineDecay",
    "CosineRegrowth",
    "ExponentialDecay",
    "FunctionSchedule",
    "GradualNM",
    "InputHessian",
    "InputNorm",
    "LinearDecay",
    "PolynomialDecay",
    "apply_mask",
    "batch_norm_score",
    "block_mask",
    "count_zeros",
    "fpgm_score",
    "global_mask",
    "lamp_score",
    "magnitude_mask",
    "magnitude_score",
    "movement_score",
    "nm_mask",
    "obd_score",
    "obs_score",
    "pack_mask",
    "random_mask",
    "regrow",
    "row_mask",
    "snip_score",
    "snip_total",
    "sparsegpt",
    "sparsity",
    "structured_mask",
    "taylor_score",
    "unpack_mask",
    "wanda_score",
]

class ConstantSparsity:
    """
    The same sparsity at every step.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def target_sparsity(self) -> typing.Any: ...

class PolynomialDecay:
    """
    final + (initial - final) * (1 - t) ** power, t from 0 to 1.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3.0,
        frequency: int = 100,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def final_sparsity(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def initial_sparsity(self) -> typing.Any: ...
    @property
    def power(self) -> typing.Any: ...

class LinearDecay:
    """
    final + (initial - final) * (1 - t), t from 0 to 1.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int = 100,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def final_sparsity(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def initial_sparsity(self) -> typing.Any: ...

class CosineDecay:
    """
    final + (initial - final) * (1 + cos(pi t)) / 2, t from 0 to 1.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int = 100,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def final_sparsity(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def initial_sparsity(self) -> typing.Any: ...

class FunctionSchedule:
    """
    The sparsity in [0, 1) that `function(step)` returns; anything else raises Error. Steps
    outside of begin_step to end_step count as the nearer of the two; with end_step=-1 masks
    are updated for ever. Pickles if the function does.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self, function: typing.Any, begin_step: int = 0, end_step: int = -1, frequency: int = 100
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def function(self) -> typing.Any: ...

class GradualNM:
    """
    From dense to n kept of every m: n + round((m - n) * (1 - t) ** power), t from 0 to 1.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        n: int,
        m: int,
        begin_step: int,
        end_step: int,
        power: float = 3.0,
        frequency: int = 100,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def kept(self, step: int) -> int:
        """
        The n for nm_mask(weights, n, m) at `step`.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def m(self) -> typing.Any: ...
    @property
    def n(self) -> typing.Any: ...
    @property
    def power(self) -> typing.Any: ...

class CosineRegrowth:
    """
    The fraction for regrow(): initial_fraction * (1 + cos(pi t)) / 2, t from 0 to 1. Evci et
    al., Rigging the Lottery, ICML 2020.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self, initial_fraction: float, begin_step: int, end_step: int, frequency: int = 100
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def fraction(self, step: int) -> float:
        """
        Share of the kept weights to exchange at `step`; 0 from end_step on.
        """
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_regrow(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ... before end_step.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def initial_fraction(self) -> typing.Any: ...

class InputNorm:
    """
    The norm of each input feature of a layer, gathered batch by batch in float64: what
    wanda_score needs.
    """
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(self, features: int) -> None: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any]) -> None:
        """
        Continues from what state_dict() gave.
        """
    def merge(self, other: InputNorm) -> None:
        """
        Adds what another one has seen.
        """
    def norm(self, out: typing.Any = None) -> typing.Any:
        """
        Euclidean norm of each feature over all samples.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        All of it, as a dict of a kind, sums and a count.
        """
    def update(self, inputs: ArrayLike, axis: int = -1) -> None:
        """
        Adds a batch with the features along `axis`. NaN and infinity raise NonFiniteError.
        """
    @property
    def count(self) -> int:
        """
        Samples seen.
        """
    @property
    def features(self) -> int: ...

class InputHessian:
    """
    Sum of x x^T over the inputs of a layer, gathered batch by batch in float64: what
    sparsegpt and obs_score need.
    """
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(self, features: int) -> None: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def hessian(self, out: typing.Any = None) -> typing.Any:
        """
        2 X^T X, the Hessian of one output's summed squared error; [features, features].
        """
    def load_state_dict(self, state: dict[str, typing.Any]) -> None:
        """
        Continues from what state_dict() gave.
        """
    def merge(self, other: InputHessian) -> None:
        """
        Adds what another one has seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        All of it, as a dict of a kind, sums and a count.
        """
    def update(self, inputs: ArrayLike, axis: int = -1) -> None:
        """
        Adds a batch with the features along `axis`. NaN and infinity raise NonFiniteError.
        """
    @property
    def count(self) -> int:
        """
        Samples seen.
        """
    @property
    def features(self) -> int: ...

class ExponentialDecay:
    """
    final + (initial - final) * (e^(-5t) - e^-5) / (1 - e^-5), t from 0 to 1.
    """
    @staticmethod
    def from_config(config: typing.Any) -> typing.Any:
        """
        The schedule that get_config() described.
        """
    def __eq__(self, arg0: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int = 100,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def get_config(self) -> dict[str, typing.Any]:
        """
        The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.
        """
    def should_prune(self, step: int) -> bool:
        """
        True on begin_step, begin_step + frequency, ..., and always on end_step.
        """
    def sparsity(self, step: int) -> float:
        """
        Share of zeros wanted at `step`.
        """
    @property
    def begin_step(self) -> typing.Any: ...
    @property
    def end_step(self) -> typing.Any: ...
    @property
    def final_sparsity(self) -> typing.Any: ...
    @property
    def frequency(self) -> typing.Any: ...
    @property
    def initial_sparsity(self) -> typing.Any: ...

def apply_mask(weights: ArrayLike, mask: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    The weights with +0 where the mask (bool or packed) is false, NaN included.
    out=weights works in place.
    """

def batch_norm_score(gamma: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    |gamma| of a batch normalization, for structured_mask. Liu et al., Network Slimming,
    ICCV 2017.
    """

def block_mask(
    weights: ArrayLike,
    sparsity: float,
    block: tuple[int, int],
    pooling: str = "mean",
    *,
    scores: ArrayLike | None = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> typing.Any:
    """
    Keeps or prunes whole blocks of (rows, columns) of the last two axes, by the mean or
    max of their magnitudes (or scores). Smaller blocks at the ends count as one.
    """

def count_zeros(array: ArrayLike) -> int:
    """
    Elements that equal zero; -0 does, NaN does not.
    """

def fpgm_score(weights: ArrayLike, axis: int = 0, out: typing.Any = None) -> typing.Any:
    """
    One score for each slice along `axis`, for structured_mask: the sum of its Euclidean
    distances to all others. He et al., CVPR 2019, equation 4.
    """

def global_mask(
    weights: typing.Any,
    sparsity: float,
    scores: typing.Any = None,
    *,
    minimum: typing.Any = None,
    maximum: typing.Any = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> list[typing.Any]:
    """
    The masks of a list of tensors ranked together: round(total * sparsity) zeros.
    Mixed dtypes compare as float64. `minimum` and `maximum` bound the share of zeros of each
    tensor, one number for all or one for each; the total stays exact, and bounds that do
    not allow it raise Error.
    """

def lamp_score(weights: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    w**2 over the sum of the squares of itself and all that outrank it in the tensor; of
    equal magnitudes the earlier outranks. For global_mask. Lee et al., ICLR 2021, equation 4.
    """

def magnitude_mask(
    weights: ArrayLike,
    sparsity: float,
    *,
    scores: ArrayLike | None = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
    compat: str | None = None,
) -> typing.Any:
    """
    True where a weight is kept. round(n * sparsity) zeros, half to even, at the smallest
    magnitudes (or scores); of equal ones the first are kept. packed=True gives one bit a
    weight, little-endian, as uint8.
    """

def magnitude_score(weights: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    |w|.
    """

def movement_score(weights: ArrayLike, grad: ArrayLike, *, out: typing.Any = None) -> typing.Any:
    """
    Adds -w g to `out` (zeros by default) and returns it. Call it at every step with the
    same out. Sanh et al., Movement Pruning, NeurIPS 2020.
    """

def nm_mask(
    weights: ArrayLike,
    n: int,
    m: int,
    axis: int = -1,
    *,
    scores: ArrayLike | None = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> typing.Any:
    """
    Keeps the n largest of every m consecutive weights along `axis`; an incomplete last
    group is kept.
    """

def obd_score(
    weights: ArrayLike,
    hessian_diagonal: ArrayLike,
    *,
    axis: int | None = None,
    out: typing.Any = None,
) -> typing.Any:
    """
    w**2 h / 2: the same while the others stay. LeCun et al., Optimal Brain Damage, NIPS 1989.
    """

def obs_score(
    weights: ArrayLike,
    inverse_hessian_diagonal: ArrayLike,
    *,
    axis: int | None = None,
    out: typing.Any = None,
) -> typing.Any:
    """
    w**2 / (2 [H^-1]_qq), the loss that removing a weight costs when the others adapt. The
    diagonal has the shape of the weights, or is a vector along `axis`, and is > 0.
    Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992, equation 5.
    """

def pack_mask(mask: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    One bit a weight, little-endian: element i is bit i % 8 of byte i // 8.
    """

def random_mask(
    shape: typing.Any, sparsity: float, seed: int, *, out: typing.Any = None, packed: bool = False
) -> typing.Any:
    """
    A NumPy mask with round(n * sparsity) zeros at places drawn from `seed`.
    """

def regrow(
    mask: ArrayLike,
    weights: ArrayLike,
    grad: ArrayLike,
    fraction: float,
    *,
    nonfinite: str = "error",
    out: typing.Any = None,
) -> typing.Any:
    """
    A mask (bool or packed, as `mask` is) with round(kept * fraction) elements exchanged: the
    kept ones of smallest |w| dropped, then as many grown, of all not kept by now, where |grad|
    is largest. Of equal ones the first stay, or grow. Evci et al., Rigging the Lottery, ICML
    2020.
    """

def row_mask(
    weights: ArrayLike,
    sparsity: float,
    axis: int = 0,
    *,
    scores: ArrayLike | None = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> typing.Any:
    """
    round(n * sparsity) zeros in every slice of n weights along `axis`, each ranked by itself:
    axis 0 are the outputs of linear layers and convolutions.
    """

def snip_score(
    weights: ArrayLike, grad: ArrayLike, *, total: float | None = None, out: typing.Any = None
) -> typing.Any:
    """
    |w g| / total: the connection sensitivity of Lee et al., SNIP, ICLR 2019, equation 6.
    The total is this layer's own by default; pass the network's for scores to compare.
    """

def snip_total(weights: ArrayLike, grad: ArrayLike) -> float:
    """
    Sum of |w g|, NaN left out. Add those of all layers for the total of a network.
    """

def sparsegpt(
    weights: ArrayLike,
    hessian: ArrayLike,
    *,
    sparsity: float | None = None,
    n: int | None = None,
    m: int | None = None,
    mask: ArrayLike | None = None,
    block_size: int = 128,
    damping: float = 0.01,
    out: typing.Any = None,
    packed: bool = False,
) -> tuple[typing.Any, ...]:
    """
    (new weights, mask) of a linear layer [outputs, inputs] such that its output changes
    little on inputs X with hessian = c X^T X. Prunes to a sparsity (exactly
    round(size * sparsity) zeros; rows may differ), to n of every m inputs, or what a given
    mask says, and lets the weights that stay make up for it. `damping` is the share of the
    mean diagonal added to the Hessian. Frantar and Alistarh, SparseGPT, ICML 2023.
    """

def sparsity(array: ArrayLike) -> float:
    """
    Share of the elements that equal zero.
    """

def structured_mask(
    weights: ArrayLike,
    sparsity: float,
    axis: int = 0,
    ord: float = 2.0,
    expand: bool = False,
    *,
    scores: ArrayLike | None = None,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> typing.Any:
    """
    True for each slice along `axis` that is kept: those of the largest norm of order
    `ord` (> 0, inf for the largest magnitude), or of the largest of `scores`, one number
    for each slice. expand=True gives the shape of the weights.
    """

def taylor_score(
    weights: ArrayLike, grad: ArrayLike, *, squared: bool = True, out: typing.Any = None
) -> typing.Any:
    """
    (w g)**2, or |w g| with squared=False: the first-order change of the loss when a weight
    becomes zero. Molchanov et al., CVPR 2019, equation 8.
    """

def unpack_mask(packed: ArrayLike, shape: typing.Any, out: typing.Any = None) -> typing.Any:
    """
    The bool mask of `shape` that pack_mask packed.
    """

def wanda_score(
    weights: ArrayLike, input_norm: ArrayLike, *, axis: int = 1, out: typing.Any = None
) -> typing.Any:
    """
    |w| times the norm of its input, one number for each place along `axis`. Rank them with
    row_mask. Sun et al., Wanda, ICLR 2024, equation 1.
    """
