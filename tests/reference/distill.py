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


def attention_loss(student, teacher, p=2, axis=1, mask=None):
    """Sample by sample, position by position."""
    maps = []
    for features in (student, teacher):
        rows = np.moveaxis(np.asarray(features, np.float64), axis, -1)
        sums = np.zeros(rows.shape[:-1])
        for at in np.ndindex(*sums.shape):
            if mask is None or mask[at]:
                sums[at] = sum(abs(x) ** p for x in rows[at])
        for sample in sums:
            norm = np.sqrt(np.sum(sample**2))
            sample /= norm or 1.0
        maps.append(sums)
    kept = maps[0].size if mask is None else np.count_nonzero(mask)
    return np.sum((maps[0] - maps[1]) ** 2) / max(kept, 1)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def relational_loss(student, teacher, distance=25.0, angle=50.0):
    """Pair by pair and triple by triple."""
    found = []
    for features in (student, teacher):
        x = np.asarray(features, np.float64).reshape(len(features), -1)
        n = len(x)
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        relative = d / d[d != 0].mean() if np.any(d) else d
        cosines = np.zeros((n, n, n))
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    if d[i, j] and d[i, k]:
                        cosines[i, j, k] = (x[j] - x[i]) @ (x[k] - x[i]) / (d[i, j] * d[i, k])
        found.append((relative, cosines))
    (ds, cs), (dt, ct) = found
    by_distance = np.mean([huber(v) for v in (ds - dt).ravel()])
    return distance * by_distance + angle * np.mean([huber(v) for v in (cs - ct).ravel()])


def similarity_loss(student, teacher):
    """From the whole matrices G."""
    alike = []
    for features in (student, teacher):
        x = np.asarray(features, np.float64).reshape(len(features), -1)
        g = np.array([[a @ b for b in x] for a in x])
        norms = np.linalg.norm(g, axis=1, keepdims=True)
        alike.append(g / np.where(norms == 0, 1, norms))
    return np.mean((alike[0] - alike[1]) ** 2)


def pearson(a, b):
    """0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 1e-28 else 0.0


def dist_loss(student, teacher, inter=1.0, intra=1.0, temperature=1.0):
    """Of logits [rows, classes]."""
    p = np.exp(log_softmax(np.asarray(student, np.float64) / temperature))
    q = np.exp(log_softmax(np.asarray(teacher, np.float64) / temperature))
    rows = np.mean([1 - pearson(a, b) for a, b in zip(p, q, strict=True)])
    classes = np.mean([1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter * rows + intra * classes)


def cosine_loss(student, teacher):
    """Of rows in the last axis."""
    s = np.asarray(student, np.float64).reshape(-1, np.shape(student)[-1])
    t = np.asarray(teacher, np.float64).reshape(s.shape)
    losses = []
    for a, b in zip(s, t, strict=True):
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        losses.append(1 - (a @ b / norms if norms else 0.0))
    return np.mean(losses)


def standardized(logits):
    """z-scores of the rows, n - 1 degrees of freedom; equal logits have 0."""
    x = np.asarray(logits, np.float64)
    deviation = x.std(axis=-1, ddof=1, keepdims=True)
    return np.where(deviation == 0, 0, (x - x.mean(axis=-1, keepdims=True)) / deviation)


def slopes(loss, student, step=1e-6):
    """The gradient of a scalar function of float64, by central differences."""
    x = np.array(student, np.float64)
    grad = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        value = x[at]
        x[at] = value + step
        above = loss(x)
        x[at] = value - step
        grad[at] = (above - loss(x)) / (2 * step)
        x[at] = value
    return grad
