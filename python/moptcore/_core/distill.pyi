# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Losses that train a small network to follow a large one, with their gradients.
"""

from __future__ import annotations
import collections.abc
import typing

ArrayLike = typing.Any
__all__: list[str] = [
    "attention_loss",
    "average_teachers",
    "cosine_loss",
    "dist_loss",
    "feature_loss",
    "relational_loss",
    "similarity_loss",
    "soft_target_loss",
]

def attention_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    p: float = 2.0,
    axis: int = 1,
    mask: ArrayLike | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    Attention transfer of features [samples, ...]: (loss, gradient by the student).

    A sample's map is the sum over the channels (`axis`) of |feature|^p, p >= 1, divided by its norm;
    loss = the mean over samples and positions of the squared difference of the maps. The teacher may
    have another number of channels. `mask`, bool in the student's shape without the channels, is true
    for the positions that count. A map of zeros stays 0, with gradient 0; NaN and infinities make the
    loss NaN. Zagoruyko and Komodakis, arXiv:1612.03928, section 3.1.
    """

def average_teachers(
    teachers: list[typing.Any],
    weights: collections.abc.Sequence[float] = [],
    temperature: float = 4.0,
    axis: int = -1,
    out: typing.Any = None,
) -> typing.Any:
    """
    Logits whose softmax at `temperature` is the weighted average of the teachers' softmaxes.

    A loss against the result is one against the ensemble. `teachers` is a list of arrays of one shape,
    `weights` one number >= 0 a teacher (equal if none are given), divided by their sum. Returns an
    array like the first teacher, or `out`. -inf is a class of probability 0; NaN and +inf make their
    row NaN. Hinton, Vinyals and Dean, arXiv:1503.02531, section 1.
    """

def cosine_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    axis: int = -1,
    mask: ArrayLike | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    Mean over rows of 1 - cosine(student, teacher): (loss, gradient by the student).

    Rows lie along `axis`; `mask`, bool in the shape of the other axes, is true for those that count. A
    row of zeros has cosine 0 and gradient 0; NaN and infinities make the loss NaN.
    """

def dist_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    inter: float = 1.0,
    intra: float = 1.0,
    temperature: float = 1.0,
    axis: int = -1,
    mask: ArrayLike | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    DIST of logits, relations instead of values: (loss, gradient by the student).

    With probabilities at `temperature` T over the classes (`axis`),
    loss = T^2 (inter * mean over rows of 1 - r + intra * mean over classes of 1 - r), r being Pearson's
    correlation of the student's row (class) with the teacher's. What does not vary has r = 0 and
    gradient 0. `mask`, bool in the rows' shape, is true for the rows that count. NaN makes the loss
    NaN. Huang et al., "Knowledge distillation from a stronger teacher", arXiv:2205.10536.
    """

def feature_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    adaptor: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out: typing.Any = None,
    mask: ArrayLike | None = None,
) -> tuple[typing.Any, ...]:
    """
    Mean squared difference of features: (loss, gradient by the student).

    With `adaptor`, a matrix [out, in], and perhaps `bias` [out], the student's last axis is mapped
    first: loss = mean((student @ adaptor.T + bias - teacher)^2), and the gradients by adaptor and
    bias follow in the tuple. The teacher has the shape of what it is compared with; the student's
    gradient is an array of its kind and dtype, or `out`. NaN and infinities propagate. `mask`, bool in
    the student's shape without its last axis, is true for the rows that count; the others are not
    read. With an adaptor this is the hint of FitNets (Romero et al., arXiv:1412.6550).
    """

def relational_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    distance: float = 25.0,
    angle: float = 50.0,
    mask: ArrayLike | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    Relational distillation of features [samples, ...]: (loss, gradient by the student).

    loss = distance * mean over pairs of huber(d_student - d_teacher), with d the Euclidean distances
    divided by the mean of those that are not 0, + angle * mean over triples of huber of the difference
    of cosines at each sample between the directions to two others. A weight of 0 leaves its term out.
    Only the number of samples must agree. `mask`, bool [samples], is true for those that count. Equal
    samples have no direction and gradient 0; NaN makes the loss NaN. Takes time cubic in the samples.
    Park et al., "Relational knowledge distillation", arXiv:1904.05068.
    """

def similarity_loss(
    student: ArrayLike, teacher: ArrayLike, mask: ArrayLike | None = None, out: typing.Any = None
) -> tuple[typing.Any, ...]:
    """
    Similarity-preserving distillation of [samples, ...]: (loss, gradient by the student).

    loss = the mean squared difference of G = X X^T, X the samples as rows, with every row of G divided
    by its norm. Only the number of samples must agree. `mask`, bool [samples], is true for those that
    count. A row of zeros stays 0, with gradient 0; NaN makes the loss NaN. Tung and Mori,
    "Similarity-preserving knowledge distillation", arXiv:1907.09682.
    """

def soft_target_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    labels: ArrayLike | None = None,
    temperature: float = 4.0,
    alpha: float = 0.7,
    axis: int = -1,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "batchmean",
    out: typing.Any = None,
    standardize: bool = False,
    mask: ArrayLike | None = None,
    backend: str | None = None,
) -> tuple[typing.Any, ...]:
    """
    Hinton's loss of a student's logits against a teacher's and the labels: (loss, gradient).

    loss = alpha T^2 KL(softmax(teacher / T) || softmax(student / T))
           + (1 - alpha) cross_entropy(student, labels), summed over the rows (all axes but `axis`)
    and divided by their number. Without labels alpha is 1. Rows whose label is `ignore_index` count
    nowhere; if none is left the loss is 0. `reduction` is "batchmean", "sum" or "none": then loss is
    an array with one value a row and the gradient that of their sum. A logit of -inf is a class of
    probability 0; NaN and +inf make their row NaN. A term of weight 0 is not evaluated. The gradient
    by the student's logits is an array of the student's kind and dtype, or `out`.

    `mask`, bool in the rows' shape, is true for the rows that count; the others are not read, have
    gradient 0 and are not in the divisor. `standardize` takes the softmax of the teacher's term from
    z-scores of the logits, (x - mean) / std over the row (n - 1 degrees of freedom; 0 for equal
    logits): Sun et al., "Logit standardization in knowledge distillation", arXiv:2403.01427. The
    labels' term keeps the logits as they are.

    backend="onednn": contiguous float32 with the classes in the last axis through oneDNN's softmax, a
    few roundings away from ours, which is as fast or faster.
    """
