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
    "ExponentialDecay",
    "LinearDecay",
    "PolynomialDecay",
    "apply_mask",
    "block_mask",
    "count_zeros",
    "global_mask",
    "magnitude_mask",
    "nm_mask",
    "pack_mask",
    "random_mask",
    "sparsity",
    "structured_mask",
    "unpack_mask",
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

def global_mask(
    weights: typing.Any,
    sparsity: float,
    scores: typing.Any = None,
    *,
    nonfinite: str = "error",
    out: typing.Any = None,
    packed: bool = False,
) -> list[typing.Any]:
    """
    The masks of a list of tensors ranked together: round(total * sparsity) zeros.
    Mixed dtypes compare as float64.
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

def unpack_mask(packed: ArrayLike, shape: typing.Any, out: typing.Any = None) -> typing.Any:
    """
    The bool mask of `shape` that pack_mask packed.
    """
