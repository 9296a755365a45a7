# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Losses that train a small network to follow a large one, with their gradients.
"""

from __future__ import annotations
import typing

ArrayLike = typing.Any
__all__: list[str] = ["feature_loss", "soft_target_loss"]

def feature_loss(
    student: ArrayLike,
    teacher: ArrayLike,
    adaptor: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    Mean squared difference of features: (loss, gradient by the student).

    With `adaptor`, a matrix [out, in], and perhaps `bias` [out], the student's last axis is mapped
    first: loss = mean((student @ adaptor.T + bias - teacher)^2), and the gradients by adaptor and
    bias follow in the tuple. The teacher has the shape of what it is compared with; the student's
    gradient is an array of its kind and dtype, or `out`. NaN and infinities propagate.
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
    """
