# SPDX-License-Identifier: Apache-2.0
"""What a torch classifier costs and what it is worth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from moptcore import DTypeError, Error
from moptcore.evaluation import Evaluation, file_sizes, measure_latency

__all__ = ["evaluate"]

Data = tuple[Any, Any] | Iterable[Any]


def evaluate(
    model: torch.nn.Module,
    data: Data,
    *,
    batch_size: int = 256,
    path: str | os.PathLike[str] | None = None,
    axis: int = -1,
    latency: bool = True,
    latency_batch: int = 1,
    warmup: int = 10,
    repeats: int = 100,
) -> Evaluation:
    """Accuracy, loss, parameters, non-zeros, bytes on disk and latency of a classifier.

    data: (x, y) arrays or tensors, cut into batches, or an iterable of (x, y) batches such as a
        DataLoader. Logits have their classes along `axis`; y are integer labels.
    The bytes are those of the real file that `torch.save` writes of the state dict (kept at `path`
    if given), plain and gzipped. The latency is that of `latency_batch` samples.

    Runs in eval mode without gradients on the device of the model's parameters, and puts the
    training mode of every submodule back. Raises Error for data without samples.
    """
    where = "torch.evaluate"
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    for name, value in (("batch_size", batch_size), ("latency_batch", latency_batch)):
        if not isinstance(value, int):
            raise DTypeError(f"[{where}] {name} must be an integer, got {value!r}")
        if value < 1:
            raise Error(f"[{where}] {name} must be >= 1, got {value}")
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            accuracy, loss, sample = _score(model, _batches(data, batch_size), device, axis)
            times = None
            if latency:
                few = sample[:latency_batch]
                call = _timed(model, few.expand(latency_batch, *few.shape[1:]).contiguous())
                times = measure_latency(call, warmup=warmup, repeats=repeats)
    finally:
        for module, training in modes:
            module.training = training
    parameters = list(model.parameters())
    sizes = _sizes(model, path)
    return Evaluation(
        accuracy=accuracy,
        loss=loss,
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzeros=sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
        size_bytes=sizes.plain,
        gzip_bytes=sizes.gzip,
        latency=times,
    )


def _score(
    model: torch.nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    axis: int,
) -> tuple[float, float, torch.Tensor]:
    right, total, loss = 0, 0, 0.0
    sample: torch.Tensor | None = None
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        sample = x if sample is None else sample
        logits = _logits(model, x, y, axis)
        right += int((logits.argmax(-1) == y).sum())
        total += y.numel()
        flat = logits.reshape(-1, logits.shape[-1]).double()
        losses = torch.nn.functional.cross_entropy(flat, y.reshape(-1).long(), reduction="sum")
        loss += float(losses)
    if sample is None or total == 0:
        raise Error("[torch.evaluate] data must hold at least one sample, got none")
    return right / total, loss / total, sample


def _logits(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, axis: int) -> torch.Tensor:
    """What the model gives for `x`, classes last; raises Error where x, y or axis do not fit."""
    where = "torch.evaluate"
    try:
        logits = model(x)
    except (RuntimeError, IndexError) as error:
        raise Error(
            f"[{where}] data must hold x that the model takes, got {x.dtype} "
            f"{tuple(x.shape)}: {error}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise DTypeError(f"[{where}] model must return a Tensor, got {type(logits).__name__}")
    if not -logits.dim() <= axis < logits.dim():
        raise Error(
            f"[{where}] axis must be one of the model's output {tuple(logits.shape)}, got {axis}"
        )
    logits = logits.movedim(axis, -1)
    if y.shape != logits.shape[:-1]:
        raise Error(
            f"[{where}] data must hold y of the rows' shape {tuple(logits.shape[:-1])}, "
            f"got {tuple(y.shape)}"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DTypeError(f"[{where}] data must hold y of an integer dtype, got {y.dtype}")
    classes = logits.shape[-1]
    if y.numel():
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise Error(
                f"[{where}] data must hold y in [0, {classes}), got {low if low < 0 else high}"
            )
    return logits


def _batches(data: Data, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if isinstance(data, tuple):
        if len(data) != 2:
            raise Error(f"[torch.evaluate] data must be (x, y), got a tuple of {len(data)}")
        x, y = torch.as_tensor(data[0]), torch.as_tensor(data[1])
        if len(x) != len(y):
            raise Error(f"[torch.evaluate] data must have one y per x, got {len(x)} and {len(y)}")
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]
        return
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise Error(f"[torch.evaluate] data must yield (x, y), got {type(batch).__name__}")
        yield torch.as_tensor(batch[0]), torch.as_tensor(batch[1])


def _timed(model: torch.nn.Module, sample: torch.Tensor) -> Any:
    def call() -> None:
        with torch.no_grad():
            model(sample)
            if sample.is_cuda:
                # Kernels run behind the call's back: wait for them.
                torch.cuda.synchronize(sample.device)

    return call


def _sizes(model: torch.nn.Module, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        torch.save(model.state_dict(), path)
        return file_sizes(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt"
        torch.save(model.state_dict(), file)
        return file_sizes(file)
