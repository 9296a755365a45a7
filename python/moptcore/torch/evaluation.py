# SPDX-License-Identifier: Apache-2.0
"""What a torch classifier costs and what it is worth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moptcore import DTypeError, Error
from moptcore.core import Pattern, select
from moptcore.evaluation import Evaluation, file_sizes, measure_latency
from moptcore.torch.arguments import dimensions, unwrapped

__all__ = ["Comparison", "Sparsity", "compare", "evaluate", "sparsity"]

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


@dataclass(frozen=True)
class Sparsity:
    """The share of zeros in the selected parameters, together and one by one."""

    total: float
    layers: dict[str, float]


def sparsity(
    model: torch.nn.Module,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
) -> Sparsity:
    """The zeros that the parameters of two or more dimensions hold, however they came there.

    include, exclude: globs on module path or parameter name, types, callables (path, module).
    Tied parameters count once. Raises Error for a pattern that matches nothing.
    """
    where = "torch.sparsity"
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    model = unwrapped(model)
    modules = dict(model.named_modules())
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not isinstance(parameter, torch.nn.parameter.UninitializedParameter)
        and parameter.dim() >= 2
    }
    candidates = [(path := name.rpartition(".")[0], name, modules[path]) for name in weights]
    others = dimensions(model, "counted")
    found = select(candidates, include, exclude, where, modules=modules, others=others)
    sizes, zeros = {}, {}
    for selection in found:
        if not selection.reason:
            weight = weights[selection.parameter]
            sizes[selection.parameter] = weight.numel()
            zeros[selection.parameter] = weight.numel() - int(torch.count_nonzero(weight))
    layers = {name: zeros[name] / max(size, 1) for name, size in sizes.items()}
    return Sparsity(sum(zeros.values()) / max(sum(sizes.values()), 1), layers)


@dataclass(frozen=True)
class Comparison:
    """Models measured on the same data; ratios are against the first of them."""

    models: dict[str, Evaluation]

    @property
    def accuracy_drop(self) -> dict[str, float]:
        """Accuracy of the first model minus each model's, in shares of 1."""
        first = next(iter(self.models.values())).accuracy
        return {name: first - each.accuracy for name, each in self.models.items()}

    @property
    def speedup(self) -> dict[str, float]:
        """p50 latency of the first model over each model's."""
        times = {name: each.latency.p50 for name, each in self.models.items() if each.latency}
        return {name: next(iter(times.values())) / each for name, each in times.items()}

    @property
    def compression(self) -> dict[str, float]:
        """Bytes of the first model's file over those of each model's."""
        sizes = {name: each.size_bytes for name, each in self.models.items() if each.size_bytes}
        return {name: next(iter(sizes.values())) / each for name, each in sizes.items()}

    def __str__(self) -> str:
        lines = [f"{'model':<24}{'accuracy':>9}{'file':>12}{'smaller':>9}{'p50':>11}{'faster':>8}"]
        compression, speedup = self.compression, self.speedup
        for name, each in self.models.items():
            times = "" if each.latency is None else f"{each.latency.p50:.3f} ms"
            lines.append(
                f"{name:<24}{100 * each.accuracy:>8.2f}%{each.size_bytes or 0:>10} B"
                f"{compression.get(name, float('nan')):>8.2f}x{times:>11}"
                f"{speedup.get(name, float('nan')):>7.2f}x"
            )
        return "\n".join(lines)


def compare(
    models: Mapping[str, torch.nn.Module],
    data: Data,
    *,
    batch_size: int = 256,
    axis: int = -1,
    latency_batch: int = 1,
    warmup: int = 10,
    repeats: int = 100,
) -> Comparison:
    """`evaluate` of several models on the same data, their latencies measured interleaved.

    models: by name, the one to compare with first. data: as in `evaluate`; an iterable must give
    its batches anew for every model. Sizes are those of the files that `torch.save` writes.
    """
    where = "torch.compare"
    if not isinstance(models, Mapping) or not models:
        raise DTypeError(f"[{where}] models must be a mapping of names to Modules, got {models!r}")
    if isinstance(data, Iterator):
        raise DTypeError(
            f"[{where}] data must give its batches anew for every model, got {type(data).__name__}"
        )
    found = {
        name: evaluate(model, data, batch_size=batch_size, axis=axis, latency=False)
        for name, model in models.items()
    }
    x, _ = next(_batches(data, batch_size))
    few = x[:latency_batch]
    few = few.expand(latency_batch, *few.shape[1:]).contiguous()
    modes = [(each, each.training) for model in models.values() for each in model.modules()]
    calls = {}
    for name, model in models.items():
        model.eval()
        first = next(model.parameters(), few)
        calls[name] = _timed(model, few.to(first.device))
    try:
        times = measure_latency(calls, warmup=warmup, repeats=repeats)
    finally:
        for module, training in modes:
            module.training = training
    return Comparison({name: replace(each, latency=times[name]) for name, each in found.items()})


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
