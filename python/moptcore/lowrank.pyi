# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Weights as products of smaller ones.
"""

from __future__ import annotations
import collections.abc
import typing

ArrayLike = typing.Any
__all__: list[str] = [
    "allocate_choices",
    "allocate_ranks",
    "channel_svd",
    "factorize",
    "largest_useful_rank",
    "reconstruct",
    "singular_values",
    "spatial_svd",
    "tucker2",
    "tucker2_choices",
]

def allocate_choices(
    choices: collections.abc.Sequence[collections.abc.Sequence[tuple[int, float]]],
    sizes: collections.abc.Sequence[int],
    params: float | None = None,
    error: float | None = None,
    importance: collections.abc.Sequence[float] | None = None,
) -> list[int | None]:
    """
    Which of its choices each tensor takes under one budget; None leaves a tensor as it is.

    choices: for each tensor, pairs (parameters, share of the squared norm that is lost) in any
    order, of any decomposition; sizes: the tensors' own parameters. A choice that makes its tensor no
    smaller is never taken. Exactly one of params (the most parameters, as a share of all
    tensors') and error (the largest sqrt(sum(importance * loss) / sum(importance))).
    importance is 1 each unless given.

    Steps along the lower convex hull of each tensor's choices, those that keep most for a parameter
    first (Everett 1963): the best of all wherever they use the budget up. Error if the cheapest
    choices are above the budget.
    """

def allocate_ranks(
    singular_values: collections.abc.Sequence[collections.abc.Sequence[float]],
    shapes: collections.abc.Sequence[tuple[int, int]],
    params: float | None = None,
    error: float | None = None,
    importance: collections.abc.Sequence[float] | None = None,
) -> list[int | None]:
    """
    Ranks of several matrices under one budget; None leaves a matrix as it is.

    singular_values: all of each matrix, descending; shapes: its (m, n). Exactly one of
    params (the most parameters, as a share of all matrices') and error (the largest
    sqrt(sum(importance * squared error) / sum(importance * squared norm))). importance is
    1 / squared norm unless given, so that relative errors count alike.

    The steps with the most energy for a parameter come first (Everett 1963): the best allocation
    whenever they use the budget up, and otherwise less than one step from it. Error if
    rank 1 everywhere is above the budget.
    """

def channel_svd(
    w: ArrayLike,
    rank: int | None = None,
    energy: float | None = None,
    params: float | None = None,
    error: float | None = None,
    method: str = "svd",
    whiten: ArrayLike | None = None,
    seed: int = 0,
    oversampling: int = 16,
    iterations: int = 4,
    tolerance: float = 0.0001,
) -> tuple[typing.Any, ...]:
    """
    A convolution [out, in, kh, kw] as [r, in, kh, kw] and then [out, r, 1, 1].

    The truncated SVD of the weight as [out, in kh kw]; the arguments are those of `factorize`, whiten
    being the second moment of the patches, [in kh kw, in kh kw]. Stride, padding and dilation belong
    to the first convolution. `reconstruct` gives the weight back.
    """

def factorize(
    w: ArrayLike,
    rank: int | None = None,
    energy: float | None = None,
    params: float | None = None,
    error: float | None = None,
    method: str = "svd",
    whiten: ArrayLike | None = None,
    seed: int = 0,
    oversampling: int = 16,
    iterations: int = 4,
    tolerance: float = 0.0001,
) -> tuple[typing.Any, ...]:
    """
    Two thin matrices whose product is close to w [m, n]: (u [m, r], v [r, n]), w ~ u @ v.

    Exactly one of
      rank    the number r of terms,
      energy  the least share of the squared norm to keep, in (0, 1],
      params  the most parameters, as a share of m n, in (0, 1),
      error   the largest relative Frobenius error, in [0, 1).
    Energy and error take the least rank that suffices. A rank with r (m + n) >= m n would not make
    w smaller: Error, naming the largest that does.

    method "svd" is the truncated singular value decomposition, the best that there is. "randomized"
    projects w on random directions first (Halko, Martinsson and Tropp 2011) with `oversampling` more
    directions than the rank and `iterations` power iterations, drawn from `seed`: the same bits
    on the same machine, at any number of threads. "krylov" finds the leading terms alone (block Krylov,
    Musco and Musco 2015), with an error at most `tolerance` above the optimum as far as the gains of
    its steps tell: the fastest for large matrices and small ranks. Energy and error, which need the
    whole spectrum, take "svd" instead.

    whiten is the second moment X.T @ X [n, n] of the inputs X [samples, n] of a layer: u and v then
    minimise the error of the layer's output, norm(X @ (w - u @ v).T), and energy and error mean
    that one (the optimum of Wang et al., "SVD-LLM", 2024, without an inverse: X.T @ X may be singular).

    Each term's norm is shared equally by its column of u and row of v, and the column's entry of
    largest magnitude is positive. The factors are arrays of w's kind and dtype. NaN and infinities
    raise NonFiniteError.
    """

def largest_useful_rank(m: int, n: int) -> int:
    """
    The largest rank r with r (m + n) < m n; 0 where none makes an m x n matrix smaller.
    """

def reconstruct(*args: typing.Any) -> typing.Any:
    """
    What factors stand for: u @ v of two matrices, or the weight of convolutions in a row.

    Convolutions come in the order in which they are applied, as the functions here return them:
    reconstruct(*tucker2(w, rank=(8, 8))) ~ w. The result is of the first one's kind and dtype.
    """

def singular_values(w: ArrayLike, whiten: ArrayLike | None = None) -> typing.Any:
    """
    All min(m, n) singular values of a matrix, descending, as float64.

    With `whiten`, those of w L with L L^T = whiten: what `factorize` ranks its terms by. Exact to
    about 1e-15 of the largest for float64, 1e-8 for the narrower dtypes.
    """

def spatial_svd(
    w: ArrayLike,
    rank: int | None = None,
    energy: float | None = None,
    params: float | None = None,
    error: float | None = None,
    method: str = "svd",
    seed: int = 0,
    oversampling: int = 16,
    iterations: int = 4,
    tolerance: float = 0.0001,
) -> tuple[typing.Any, ...]:
    """
    A convolution [out, in, kh, kw] as [r, in, kh, 1] and then [out, r, 1, kw].

    The truncated SVD of the weight as [in kh, out kw] (Jaderberg et al. 2014); the arguments are those
    of `factorize`. The vertical parts of stride, padding and dilation belong to the first
    convolution, the horizontal ones to the second.
    """

def tucker2(
    w: ArrayLike,
    rank: tuple[int, int] | None = None,
    energy: float | None = None,
    params: float | None = None,
    error: float | None = None,
    iterations: int = 10,
) -> tuple[typing.Any, ...]:
    """
    A convolution [out, in, kh, kw] as three: first [r_in, in, 1, 1], then
    [r_out, r_in, kh, kw], last [out, r_out, 1, 1].

    Tucker-2 (Kim et al. 2016): higher-order SVD and at most `iterations` sweeps of orthogonal
    iteration. rank is a pair (r_out, r_in); energy, params and error choose the best pair of all by
    what the higher-order SVD keeps, which the iteration only increases. The first and last factors
    have orthonormal rows and columns. Stride, padding and dilation belong to the middle one.
    """

def tucker2_choices(w: ArrayLike) -> tuple[typing.Any, ...]:
    """
    The pairs of ranks of a convolution [out, in, kh, kw] that are worth taking.

    Three arrays, by parameters: ranks int64 [k, 2] as `tucker2` takes them (r_out, r_in), parameters
    int64 [k] of the three factors, and losses float64 [k], the share of the squared norm that the
    higher-order SVD of these ranks loses (`tucker2` loses no more). Each pair makes w smaller and
    loses less than every pair of as many parameters or fewer; k is 0 where no pair makes w smaller.
    """
