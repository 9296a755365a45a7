# SPDX-License-Identifier: Apache-2.0
"""Run a trained module: in larger batches, and in the form that a GPU likes best."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from moptcore import DTypeError, Error
from moptcore.torch.arguments import unwrapped

__all__ = ["Optimized", "optimize_for_gpu", "predict"]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def predict(
    model: torch.nn.Module,
    data: torch.Tensor | Iterable[Any],
    batch_size: int | None = 32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """What `model` gives for all samples, on the CPU, in their order: [samples, ...].

    data: one tensor [samples, ...], or an iterable of batches: tensors, or (x, y) of which x is
        taken.
    batch_size: batches are cut and joined to this size, whatever size they arrive in; None: as
        they arrive.
    device: where the batches are computed; None: where the model is.

    Runs in eval mode without gradients and puts every submodule's mode back. Raises Error for
    data without samples and for a model that does not give one row per sample.
    """
    where = "torch.predict"
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise Error(f"[{where}] batch_size must be an integer >= 1 or None, got {batch_size!r}")
    first = next(model.parameters(), None)
    if device is None:
        device = torch.device("cpu") if first is None else first.device
    results = []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            for x in _cut(_tensors(data, where), batch_size):
                y = model(x.to(device, non_blocking=True))
                if not isinstance(y, torch.Tensor) or y.dim() == 0 or len(y) != len(x):
                    got = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
                    raise Error(f"[{where}] model must return a Tensor of {len(x)} rows, got {got}")
                results.append(y.cpu())
    finally:
        for module, training in modes:
            module.training = training
    if not results:
        raise Error(f"[{where}] data must hold at least one sample, got none")
    # Out of inference mode, so that the result is an ordinary tensor.
    return torch.cat(results).clone()


def _tensors(data: Any, where: str) -> Iterator[torch.Tensor]:
    if isinstance(data, torch.Tensor):
        yield data
        return
    for batch in data:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, torch.Tensor):
            raise DTypeError(f"[{where}] data must yield tensors, got {type(x).__name__}")
        yield x


def _cut(tensors: Iterator[torch.Tensor], size: int | None) -> Iterator[torch.Tensor]:
    if size is None:
        yield from (x for x in tensors if len(x))
        return
    waiting: list[torch.Tensor] = []
    count = 0
    for x in tensors:
        first = 0
        while count + len(x) - first >= size:
            last = first + size - count
            waiting.append(x[first:last])
            yield waiting[0] if len(waiting) == 1 else torch.cat(waiting)
            waiting, count, first = [], 0, last
        if first < len(x):
            waiting.append(x[first:])
            count += len(x) - first
    if waiting:
        yield torch.cat(waiting)


class Optimized(torch.nn.Module):
    """What `optimize_for_gpu` returns: call it as the model itself, in eval mode.

    done, skipped: what was changed, and what was not and why, in words.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        done: tuple[str, ...],
        skipped: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.done = done
        self.skipped = skipped

    def forward(self, *inputs: Any) -> Any:
        """Inputs in any floating dtype on any device; floating results come back as float32."""
        moved = [self._moved(x) for x in inputs]
        with torch.inference_mode():
            y = self.model(*moved)
        if isinstance(y, torch.Tensor) and y.is_floating_point():
            return y.float()
        return y

    def _moved(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return x.to(self.device, self.dtype if x.is_floating_point() else x.dtype)


def optimize_for_gpu(
    model: torch.nn.Module,
    precision: str = "float16",
    compile: bool = True,  # torch's own word
    device: torch.device | str = "cuda",
) -> Optimized:
    """A copy of `model` for inference on a GPU: half precision, cuDNN's search for the fastest
    convolutions, torch.compile. `model` is untouched.

    What this machine cannot do is left out and named in `skipped` and in a warning: without a GPU
    the copy computes on the CPU in float32, where half precision is slower and less exact.
    """
    where = "torch.optimize_for_gpu"
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    if precision not in _PRECISIONS:
        raise Error(f"[{where}] precision must be one of {[*_PRECISIONS]}, got {precision!r}")
    done, skipped = [], []
    on = torch.device(device)
    dtype = _PRECISIONS[precision]
    gpu = on.type == "cuda" and torch.cuda.is_available()
    if not gpu:
        reason = "no CUDA device is available" if on.type == "cuda" else f"{on.type} is no GPU"
        skipped.append(f"cuDNN's search for the fastest convolutions: {reason}")
        if dtype != torch.float32:
            skipped.append(f"{precision}: {reason}, the CPU computes in float32")
        on, dtype = torch.device("cpu"), torch.float32
    else:
        # A switch of the whole process, as cuDNN has no other.
        torch.backends.cudnn.benchmark = True
        done.append("cuDNN searches for the fastest convolutions")
        if dtype != torch.float32:
            done.append(f"weights and activations in {precision}")
    fast = copy.deepcopy(unwrapped(model)).to(on, dtype).eval()
    if compile:
        fast.compile()
        done.append("torch.compile, at the first call")
    else:
        skipped.append("torch.compile: not asked for")
    unmet = [each for each in skipped if not each.endswith("not asked for")]
    if unmet:
        warnings.warn(f"[{where}] skipped {'; '.join(unmet)}", stacklevel=2)
    return Optimized(fast, on, dtype, tuple(done), tuple(skipped))
