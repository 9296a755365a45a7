# SPDX-License-Identifier: Apache-2.0
"""Training loops with the places at which compression steps in: short, and yours to replace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from moptcore import DTypeError, Error, NonFiniteError
from moptcore.distill import TeacherCache
from moptcore.torch.arguments import tensor
from moptcore.torch.distillation import DistillationLoss

__all__ = ["distill", "fingerprint", "train"]

Batches = Iterable[tuple[torch.Tensor, ...]]

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    model: torch.nn.Module,
    data: Batches,
    *,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    step: Callable[[], object] | None = None,
    precision: str = "float32",
    device: torch.device | str | None = None,
) -> list[float]:
    """Trains `model` on batches (x, y) and returns the mean loss per sample of each epoch.

    data: a DataLoader or any iterable that gives its batches anew for every epoch.
    optimizer: Adam with a rate of 0.001 if None. loss: cross-entropy if None.
    step: called after every finished optimizer step: the `step` of a Pruner, Clusterer or
        Compression. A step that float16's loss scaling skipped is not finished.
    precision: "float32", or autocast to "bfloat16" or "float16"; float16 scales the loss
        (Micikevicius et al., "Mixed precision training", arXiv:1710.03740). Weights stay as they
        are.
    device: where model and batches go; None: where the model is.

    Leaves the model in the mode it had. Raises NonFiniteError at the first loss that is not
    finite, before the weights change, and Error for data without batches.
    """
    return _epochs("torch.train", model, data, epochs, optimizer, loss, step, precision, device)


def distill(
    student: torch.nn.Module,
    teacher: torch.nn.Module | Sequence[torch.nn.Module],
    data: Batches,
    *,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Callable[[Any, Any, torch.Tensor], torch.Tensor] | None = None,
    step: Callable[[], object] | None = None,
    precision: str = "float32",
    device: torch.device | str | None = None,
    cache: TeacherCache | None = None,
) -> list[float]:
    """Trains `student` to give what `teacher` gives; the mean loss per sample of each epoch.

    teacher: a module, or a list of several.
    loss: takes (student output, teacher output, y), of several teachers the list of their outputs;
        DistillationLoss() if None, whose teacher_weights weigh them. Teachers run in eval mode
        without gradients, on the student's device, and get their modes back. The rest is as in
        `train`.

    cache: keeps the teacher's outputs, so that every sample passes through the teacher once. Data
    then yields (x, y, indices), with the samples' places in the data set, and a sample must always
    be the same x: no random augmentation. The cache's `teacher` must be `fingerprint(teacher)`; a
    cache of other weights is refused, and one of several teachers too.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """
    where = "torch.distill"
    several = isinstance(teacher, list | tuple)
    teachers: list[Any] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    if not teachers:
        raise Error(f"[{where}] teacher must be a Module or several, got none")
    for each in teachers:
        if not isinstance(each, torch.nn.Module):
            raise DTypeError(
                f"[{where}] teacher must be a Module or a list of them, got {type(each).__name__}"
            )
        if each is student:
            raise Error(f"[{where}] teacher must not be the student itself")
    first = teachers[0]
    criterion = DistillationLoss() if loss is None else loss
    inputs: list[torch.Tensor] = []

    if cache is not None and not isinstance(cache, TeacherCache):
        raise DTypeError(f"[{where}] cache must be a TeacherCache, got {type(cache).__name__}")
    if cache is not None and several:
        raise Error(f"[{where}] cache must be None with a list of teachers, got {len(teachers)}")
    if cache is not None and cache.teacher != (found := fingerprint(first)):
        raise Error(
            f"[{where}] cache must be of this teacher, fingerprint {found!r}, got one of "
            f"{cache.teacher!r}"
        )

    def compare(output: Any, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if cache is not None:
                taught: Any = _recalled(first, cache, *inputs)
            else:
                taught = [each(inputs[0]) for each in teachers]
                taught = taught if several else taught[0]
        return criterion(output, taught, y)

    with ExitStack() as modes:
        where_to = _device(student, device)
        for each in teachers:
            modes.enter_context(_modes(each, False))
            if where_to is not None:
                each.to(where_to)
        return _epochs(
            where,
            student,
            data,
            epochs,
            optimizer,
            compare,
            step,
            precision,
            device,
            inputs,
            cache is not None,
        )


def fingerprint(model: torch.nn.Module) -> str:
    """A text that changes with any name, dtype, shape or bit of the model's state: SHA-256.

    For TeacherCache: the same weights have the same fingerprint in every process.
    """
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"[torch.fingerprint] model must be a Module, got {type(model).__name__}")
    digest = hashlib.sha256()
    for name, each in sorted(model.state_dict().items()):
        if not isinstance(each, torch.Tensor):
            digest.update(f"{name} {each!r};".encode())
            continue
        digest.update(f"{name} {each.dtype} {tuple(each.shape)};".encode())
        data = each.detach().cpu().contiguous().reshape(-1)
        digest.update(data.view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return digest.hexdigest()


def _recalled(
    teacher: torch.nn.Module, cache: TeacherCache, x: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """The teacher's outputs from the cache, after it has seen what is not there yet."""
    at = indices.cpu().numpy()
    if not cache.has(at).all():
        # What is compared always comes from the cache, so that all epochs see the same values.
        # At the teacher's own precision: later runs, of any precision, read the same folder.
        with torch.autocast(x.device.type, enabled=False):
            cache.put(at, teacher(x).cpu().to(torch.float64).numpy())
    return torch.from_numpy(cache.get(at)).to(x.device)


def _epochs(
    where: str,
    model: torch.nn.Module,
    data: Batches,
    epochs: int,
    optimizer: torch.optim.Optimizer | None,
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None,
    step: Callable[[], object] | None,
    precision: str,
    device: torch.device | str | None,
    inputs: list[torch.Tensor] | None = None,
    indexed: bool = False,
) -> list[float]:
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    if not isinstance(epochs, int) or isinstance(epochs, bool):
        raise DTypeError(f"[{where}] epochs must be an integer, got {epochs!r}")
    if epochs < 1:
        raise Error(f"[{where}] epochs must be >= 1, got {epochs}")
    if precision not in _PRECISIONS:
        raise Error(f"[{where}] precision must be one of {[*_PRECISIONS]}, got {precision!r}")
    if isinstance(data, Iterator):
        raise DTypeError(
            f"[{where}] data must give its batches anew for every epoch (a list or a DataLoader), "
            f"got {type(data).__name__}"
        )
    on = _device(model, device)
    if on is not None:
        model.to(on)
    on = on or torch.device("cpu")
    if optimizer is None:
        optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    criterion = torch.nn.functional.cross_entropy if loss is None else loss
    dtype = _PRECISIONS[precision]
    scaler = torch.amp.GradScaler(on.type, enabled=dtype == torch.float16)
    means = []
    with _modes(model, True):
        for epoch in range(epochs):
            total, samples = 0.0, 0
            for batch in data:
                x, y, *rest = _batch(where, batch, on, indexed)
                if inputs is not None:
                    inputs[:] = [x, *rest]
                optimizer.zero_grad()
                autocast = nullcontext() if dtype is None else torch.autocast(on.type, dtype)
                with autocast:
                    value = criterion(model(x), y)
                number = float(value.detach())
                if number != number or number in (float("inf"), float("-inf")):
                    raise NonFiniteError(
                        f"[{where}] loss must be finite, got {number} in epoch {epoch + 1} after "
                        f"{samples} samples"
                    )
                scaler.scale(value).backward()
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                # A smaller scale is the sign of a step that was left out.
                if step is not None and scaler.get_scale() >= scale:
                    step()
                total += number * len(x)
                samples += len(x)
            if samples == 0:
                raise Error(f"[{where}] data must hold at least one sample, got none")
            means.append(total / samples)
    return means


def _device(model: torch.nn.Module, device: torch.device | str | None) -> torch.device | None:
    if device is not None:
        return torch.device(device)
    first = next(model.parameters(), None)
    return None if first is None else first.device


def _batch(where: str, batch: Any, device: torch.device, indexed: bool) -> list[torch.Tensor]:
    names = ("x", "y", "indices") if indexed else ("x", "y")
    if not isinstance(batch, tuple | list) or len(batch) != len(names):
        raise DTypeError(
            f"[{where}] data must yield ({', '.join(names)}), got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
        )
    found = [tensor(where, name, each) for name, each in zip(names, batch, strict=True)]
    for name, each in zip(names[1:], found[1:], strict=True):
        if len(each) != len(found[0]):
            raise Error(
                f"[{where}] data must have one {name} per x, got {len(found[0])} and {len(each)}"
            )
    # Pinned memory travels while the device still computes.
    return [each.to(device, non_blocking=True) for each in found]


@contextmanager
def _modes(model: torch.nn.Module, training: bool) -> Iterator[None]:
    """train() or eval() for a while; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
