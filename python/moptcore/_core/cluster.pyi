# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Weights that share few values: codebooks by k-means, and what is done with them.
"""

from __future__ import annotations
import typing

ArrayLike = typing.Any
__all__: list[str] = [
    "Codebook",
    "assign",
    "centroid_gradient",
    "init_centroids",
    "kmeans",
    "lloyd",
    "lookup",
]

class Codebook:
    """
    Centroids and, for each weight, the index of the one that stands for it.

    Without axis and group_size centroids are a vector (k,); else a matrix (groups, k), one
    row for each index along `axis` or each group_size consecutive ones, or without axis for
    each group_size consecutive elements in row-major order.
    """
    def __init__(
        self,
        centroids: typing.Any,
        indices: typing.Any,
        axis: int | None = None,
        group_size: int | None = None,
    ) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[typing.Any, ...]]: ...
    def __repr__(self) -> str: ...
    def lookup(self, out: typing.Any = None) -> typing.Any:
        """
        The weights that the indices stand for.
        """
    @property
    def axis(self) -> int | None:
        """
        The axis whose indices have codebooks, or None.
        """
    @property
    def bits(self) -> int:
        """
        Bits that an index needs.
        """
    @property
    def centroids(self) -> typing.Any:
        """
        (k,) or (groups, k), of the weights' dtype.
        """
    @property
    def group_size(self) -> int | None:
        """
        How many share a codebook, or None.
        """
    @property
    def indices(self) -> typing.Any:
        """
        Of the weights' shape: uint8 for k <= 256, else uint16.
        """
    @property
    def k(self) -> int:
        """
        Centroids of one codebook.
        """

def assign(
    weights: ArrayLike,
    centroids: ArrayLike,
    axis: int | None = None,
    out: typing.Any = None,
    *,
    group_size: int | None = None,
    preserve_zeros: bool = False,
    compat: str | None = None,
) -> typing.Any:
    """
    The index of the nearest centroid, of equally near ones the lowest: uint8 for k <= 256,
    else uint16. Centroids (k,) or (groups, k) in any order. preserve_zeros gives zeros, and
    only them, to the first centroid equal to zero. compat='tfmot' compares distances
    rounded to float32. Raises NonFiniteError for NaN and infinity.
    """

def centroid_gradient(
    grad: ArrayLike,
    indices: ArrayLike,
    k: int,
    reduction: str = "sum",
    axis: int | None = None,
    group_size: int | None = None,
    *,
    out: typing.Any = None,
) -> typing.Any:
    """
    Sum or mean of the gradients of the weights of each of k centroids, (k,) or (groups, k),
    0 where it has none. Summed in double; the same bits at any number of threads.
    """

def init_centroids(
    weights: ArrayLike,
    k: int,
    method: str,
    axis: int | None = None,
    group_size: int | None = None,
    preserve_zeros: bool = False,
    seed: int = 0,
    *,
    exact: bool | None = None,
    tolerance: float = 0.0001,
    compat: str | None = None,
) -> typing.Any:
    """
    The centroids (k,) or (groups, k) that kmeans(init=method) starts from.
    """

def kmeans(
    weights: ArrayLike,
    k: int,
    init: str = "optimal",
    axis: int | None = None,
    group_size: int | None = None,
    preserve_zeros: bool = False,
    seed: int = 0,
    max_iterations: int = 300,
    *,
    exact: bool | None = None,
    tolerance: float = 0.0001,
    compat: str | None = None,
) -> Codebook:
    """
    The Codebook of at most k ascending centroids for the whole tensor, for each index along
    `axis`, or for each group (see Codebook); exactly its values where a group has no more
    than k. Rows with fewer centroids than others repeat their largest that is not the
    pinned zero.

    init='optimal' is the least sum of squared errors (Aggarwal, Schieber and Tokuyama,
    1994); exact=None takes all values of a group up to 2**21. Beyond that, and with
    exact=False, it is proved to be at most 1 + tolerance times the least, before centroids
    are rounded to the weights' dtype: values are counted in cells, those that may hold a
    border are divided, until a lower bound of the optimum is so near. 'linear', 'density',
    'random' and 'kmeans++' start Lloyd's iteration of at most max_iterations.
    preserve_zeros keeps one centroid for exact zeros only where there are any. compat='tfmot' gives the centroids of TFMOT
    0.8 in its order, without iteration ('linear', 'density', 'random' as after
    tf.random.set_seed(seed), and 'kmeans++', which TFMOT always seeds with 9).

    Raises NonFiniteError for NaN and infinity, Error for k outside [1, 65536].
    """

def lloyd(
    weights: ArrayLike,
    centroids: ArrayLike,
    axis: int | None = None,
    group_size: int | None = None,
    preserve_zeros: bool = False,
    max_iterations: int = 300,
    *,
    out: typing.Any = None,
) -> typing.Any:
    """
    Moves centroids (k,) or (groups, k) to the means of their weights until nothing changes
    (Lloyd, 1982); the result is ascending, of the weights' dtype. Centroids without weights
    stay. preserve_zeros pins the first centroid equal to zero and leaves it the zeros only.
    """

def lookup(
    indices: ArrayLike,
    centroids: ArrayLike,
    axis: int | None = None,
    out: typing.Any = None,
    *,
    group_size: int | None = None,
) -> typing.Any:
    """
    centroids[indices] with the codebooks of kmeans(); indices of any integer dtype.
    Raises Error for an index out of range.
    """
