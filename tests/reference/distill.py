# SPDX-License-Identifier: Apache-2.0
"""The distillation losses, slowly and plainly, in float64."""

from __future__ import annotations

import numpy as np


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def soft_target_rows(student, teacher, labels, temperature, alpha, eps=0.0, ignore=-100):
    """(loss, gradient) of each row of [rows, classes] logits; ignored rows are 0."""
    student = np.asarray(student, np.float64)
    teacher = np.asarray(teacher, np.float64)
    losses = np.zeros(len(student))
    grads = np.zeros_like(student)
    classes = student.shape[1]
    if labels is None:
        alpha = 1.0
    for row, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if labels is not None and labels[row] == ignore:
            continue
        log_p, log_q = log_softmax(s / temperature), log_softmax(t / temperature)
        p, q = np.exp(log_p), np.exp(log_q)
        losses[row] = alpha * temperature**2 * np.sum(q * (log_q - log_p))
        grads[row] = alpha * temperature * (p - q)
        if labels is not None:
            target = np.full(classes, eps / classes)
            target[labels[row]] += 1 - eps
            losses[row] -= (1 - alpha) * np.sum(target * log_softmax(s))
            grads[row] += (1 - alpha) * (np.exp(log_softmax(s)) - target)
    return losses, grads


def soft_target_bounds(student, teacher, temperature, alpha):
    """(loss, gradient) bounds on what float32 arithmetic may differ by in any row.

    With u = 2^-24: a shifted logit x is rounded (u |x|), divided by T (2 u |x|), its exponential is
    within 3 u, its fourth power (temperature 4) within 4 (3 u) + 3 u, a sum of them within 64 u of
    its chunk's lanes but 8 u in practice of positive terms: 26 u in all, plus 3 u |x| exp(-|x|),
    at most 1.2 u, so 28 u a probability. A loss adds logarithms of such sums to averages of
    differences of logits, whose own rounding is 3 u.
    """
    error = 28 * 2.0**-24
    student = np.asarray(student, np.float64)
    teacher = np.asarray(teacher, np.float64)
    span = np.ptp(student, axis=-1).max() + np.ptp(teacher, axis=-1).max()
    loss = error * (alpha * temperature**2 * (2 + span / temperature) + (1 - alpha) * (1 + span))
    grad = error * (2 * alpha * temperature + 2 * (1 - alpha))
    return loss, grad


def feature_loss(student, teacher, adaptor=None, bias=None):
    """(loss, gradients by student, adaptor and bias) of the mean squared error."""
    student = np.asarray(student, np.float64)
    teacher = np.asarray(teacher, np.float64)
    rows = student.reshape(-1, student.shape[-1]) if adaptor is not None else student
    mapped = rows
    if adaptor is not None:
        mapped = rows @ np.asarray(adaptor, np.float64).T
        if bias is not None:
            mapped = mapped + np.asarray(bias, np.float64)
    residual = mapped - teacher.reshape(mapped.shape)
    step = 2 * residual / residual.size
    loss = np.mean(residual**2)
    if adaptor is None:
        return loss, step, None, None
    return loss, (step @ adaptor).reshape(student.shape), step.T @ rows, step.sum(axis=0)
