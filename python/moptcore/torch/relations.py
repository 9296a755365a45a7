# SPDX-License-Identifier: Apache-2.0
"""Losses between features and relations of two networks: the core on CPU, torch elsewhere.

Each is a module that takes (student, teacher, mask=None); the teacher is a constant. Values are
computed in float64 on CPU, in float32 (float64 for float64 features) on other devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from moptcore import DTypeError, Error, UnsupportedError, _core
from moptcore.torch.arguments import axes, check_adaptor, number, same_device, tensor

__all__ = [
    "AttentionTransferLoss",
    "CosineLoss",
    "DistLoss",
    "HintLoss",
    "RelationalLoss",
    "SimilarityLoss",
    "core_loss",
]

Core = Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]]
Composite = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _CoreLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, core: Core) -> torch.Tensor:
        loss, ctx.grad = core(student.detach(), teacher)
        return _number(loss, student)

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # The gradient is a constant here: a second derivative through it would be wrong.
            raise UnsupportedError(
                "[torch.distillation] create_graph must be False, got True: second derivatives are "
                "not supported"
            )
        return (ctx.grad * grad_loss).to(ctx.grad.dtype), None, None


def _number(loss: Any, student: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(student.dtype, torch.float32)
    return loss if isinstance(loss, torch.Tensor) else torch.scalar_tensor(loss, dtype=wide)


def core_loss(
    student: torch.Tensor, teacher: torch.Tensor, core: Core, composite: Composite
) -> torch.Tensor:
    """The loss with the gradient that `core` gives beside it, or `composite` off the CPU."""
    teacher = teacher.detach()
    plain = all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in (student, teacher))
    if not plain or student.device.type != "cpu" or torch.compiler.is_compiling():
        wide = torch.promote_types(student.dtype, torch.float32)
        return composite(student.to(wide), teacher.to(wide))
    if torch.is_grad_enabled() and student.requires_grad:
        apply: Any = _CoreLoss.apply
        loss: torch.Tensor = apply(student, teacher, core)
        return loss
    return _number(core(student.detach(), teacher)[0], student)


def _check(where: str, student: Any, teacher: Any, mask: Any, least: int = 1) -> None:
    axes(where, "student", tensor(where, "student", student), least)
    same_device(where, "teacher", tensor(where, "teacher", teacher), "student", student)
    axes(where, "teacher", teacher, least)
    if mask is not None:
        same_device(where, "mask", tensor(where, "mask", mask), "student", student)


def _whole(where: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DTypeError(f"[{where}] {name} must be an integer, got {value!r}")
    return int(value)


def _unit(x: torch.Tensor, floor: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Divided by the norm over the last axis; 0 with slope 0 where that is not above `floor`."""
    squares = x.pow(2).sum(-1, keepdim=True)
    # `not <=`, so that NaN goes on.
    some = ~(squares <= floor)
    return x * some / torch.where(some, squares, torch.ones_like(squares)).sqrt()


class AttentionTransferLoss(torch.nn.Module):
    """Mean squared difference of the samples' attention maps: sum over channels of |feature|^p.

    p: the power, >= 1. axis: the channels; samples are axis 0. The numbers of channels may differ.
    Maps are divided by their norm; `mask`, bool in the shape without the channels, is True for the
    positions that count.

    Zagoruyko and Komodakis, "Paying more attention to attention", arXiv:1612.03928.

    Raises Error for p below 1 or not finite.
    """

    def __init__(self, p: float = 2.0, axis: int = 1) -> None:
        super().__init__()
        where = "torch.AttentionTransferLoss"
        self.p = number(where, "p", p, 1.0)
        self.axis = _whole(where, "axis", axis)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of features [samples, ...]; the gradient goes to the student only."""
        _check("torch.AttentionTransferLoss", student, teacher, mask)

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.attention_loss(s, t, self.p, self.axis, mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            maps = [self._map(x, mask) for x in (s, t)]
            count = maps[0].numel() if mask is None else mask.sum().clamp(min=1)
            return (maps[0] - maps[1]).pow(2).sum() / max(count, 1)

        return core_loss(student, teacher, core, composite)

    def _map(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows = x.movedim(self.axis, -1)
        if mask is not None:
            rows = rows.masked_fill(~mask.unsqueeze(-1), 0)
        return _unit(rows.abs().pow(self.p).sum(-1).flatten(1))

    def extra_repr(self) -> str:
        return f"p={self.p}, axis={self.axis}"


class RelationalLoss(torch.nn.Module):
    """Huber's loss of relative distances between samples and of the angles of their triples.

    distance, angle: the weights of the two terms, >= 0; 0 leaves a term out. The features'
    shapes are free but for the samples, axis 0. Equal samples get no gradient from each other.
    `mask`, bool [samples], is True for the samples that count. Cubic in the samples.

    Park, Kim, Lu and Cho, "Relational knowledge distillation", arXiv:1904.05068.

    Raises Error for weights that are negative or not finite.
    """

    def __init__(self, distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__()
        where = "torch.RelationalLoss"
        self.distance = number(where, "distance", distance, 0.0)
        self.angle = number(where, "angle", angle, 0.0)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of features [samples, ...]; the gradient goes to the student only."""
        _check("torch.RelationalLoss", student, teacher, mask)

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.relational_loss(s, t, self.distance, self.angle, mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            s, t = (_samples(x, mask) for x in (s, t))
            if len(s) == 0:
                return s.sum()
            one, other = (x[None] - x[:, None] for x in (s, t))
            loss = s.new_zeros(())
            if self.distance > 0:
                by_distance = F.smooth_l1_loss(_relative(one), _relative(other))
                loss = loss + self.distance * by_distance
            if self.angle > 0:
                one, other = _unit(one), _unit(other)
                loss = loss + self.angle * F.smooth_l1_loss(one @ one.mT, other @ other.mT)
            return loss

        return core_loss(student, teacher, core, composite)

    def extra_repr(self) -> str:
        return f"distance={self.distance}, angle={self.angle}"


def _samples(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    kept = x if mask is None else x[mask]
    return kept.reshape(len(kept), -1) if kept.numel() else kept.reshape(len(kept), 0)


def _relative(between: torch.Tensor) -> torch.Tensor:
    """Distances divided by the mean of those that are not 0."""
    squares = between.pow(2).sum(-1)
    apart = squares != 0
    distances = torch.where(apart, squares, torch.ones_like(squares)).sqrt() * apart
    count = apart.sum()
    return distances if count == 0 else distances / (distances.sum() / count)


class SimilarityLoss(torch.nn.Module):
    """Mean squared difference of the samples' products G = X X^T, every row divided by its norm.

    The features' shapes are free but for the samples, axis 0. `mask`, bool [samples], is True for
    the samples that count.

    Tung and Mori, "Similarity-preserving knowledge distillation", arXiv:1907.09682.
    """

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of features [samples, ...]; the gradient goes to the student only."""
        _check("torch.SimilarityLoss", student, teacher, mask)

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.similarity_loss(s, t, mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            s, t = (_samples(x, mask) for x in (s, t))
            return F.mse_loss(_unit(s @ s.T), _unit(t @ t.T)) if len(s) else s.sum()

        return core_loss(student, teacher, core, composite)


class DistLoss(torch.nn.Module):
    """T^2 (inter (1 - r over classes) + intra (1 - r over rows)), r Pearson's correlation.

    Of the probabilities at temperature T: relations that a stronger teacher and a weak student can
    share. inter, intra: weights >= 0. axis: the classes; rows are all other axes, and `mask`, bool
    in their shape, is True for those that count. What does not vary has r = 0 and gradient 0.

    Huang et al., "Knowledge distillation from a stronger teacher", arXiv:2205.10536.

    Raises Error for weights that are negative or not finite and a temperature that is not > 0.
    """

    def __init__(
        self, inter: float = 1.0, intra: float = 1.0, temperature: float = 1.0, axis: int = -1
    ) -> None:
        super().__init__()
        where = "torch.DistLoss"
        self.inter = number(where, "inter", inter, 0.0)
        self.intra = number(where, "intra", intra, 0.0)
        self.temperature = number(where, "temperature", temperature, 0.0, open_low=True)
        self.axis = _whole(where, "axis", axis)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of logits of one shape; the gradient goes to the student only."""
        _check("torch.DistLoss", student, teacher, mask)

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            options = (self.inter, self.intra, self.temperature, self.axis)
            return _core.distill.dist_loss(s, t, *options, mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            rows = [x.movedim(self.axis, -1) for x in (s, t)]
            if mask is not None:
                rows = [x[mask] for x in rows]
            if rows[0].numel() == 0:
                return rows[0].sum()
            p, q = ((x.flatten(0, -2) / self.temperature).softmax(-1) for x in rows)
            by_row, by_class = _unlike(p, q), _unlike(p.T, q.T)
            return self.temperature**2 * (self.inter * by_row + self.intra * by_class)

        return core_loss(student, teacher, core, composite)

    def extra_repr(self) -> str:
        return (
            f"inter={self.inter}, intra={self.intra}, temperature={self.temperature}, "
            f"axis={self.axis}"
        )


def _unlike(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The mean of 1 - r over the rows of two matrices."""
    units = []
    for x in (p, q):
        rounding = 8 * torch.finfo(x.dtype).eps * x.detach().abs().amax(-1, keepdim=True)
        units.append(_unit(x - x.mean(-1, keepdim=True), x.shape[-1] * rounding**2))
    return 1 - (units[0] * units[1]).sum(-1).mean()


class CosineLoss(torch.nn.Module):
    """Mean over rows of 1 - cosine(student, teacher); rows of zeros have cosine and gradient 0.

    axis: the features that make a row. `mask`, bool in the shape of the other axes, is True for
    the rows that count.
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = _whole("torch.CosineLoss", "axis", axis)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of features of one shape; the gradient goes to the student only."""
        _check("torch.CosineLoss", student, teacher, mask)

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.cosine_loss(s, t, self.axis, mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            rows = [x.movedim(self.axis, -1) for x in (s, t)]
            if mask is not None:
                rows = [x[mask] for x in rows]
            cosines = (_unit(rows[0]) * _unit(rows[1])).sum(-1)
            return (1 - cosines).sum() / max(cosines.numel(), 1)

        return core_loss(student, teacher, core, composite)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class HintLoss(torch.nn.Module):
    """Mean squared difference of adaptor(student features) and the teacher's: a hint.

    adaptor: maps the student's features to the teacher's shape, for example a Linear or a 1 x 1
        convolution; its parameters are this module's and train with the student. None where the
        shapes agree.

    `mask`, bool in the teacher's shape without its last axis, is True for the rows that count.

    Romero et al., "FitNets: hints for thin deep nets", arXiv:1412.6550.
    """

    def __init__(self, adaptor: torch.nn.Module | None = None) -> None:
        super().__init__()
        check_adaptor("torch.HintLoss", adaptor)
        self.adaptor = adaptor

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss; the gradient goes to the student and the adaptor.

        Raises Error where the features disagree in shape after the adaptor.
        """
        where = "torch.HintLoss"
        _check(where, student, teacher, mask, least=0)
        if self.adaptor is not None:
            student = self.adaptor(student)
        if student.shape != teacher.shape:
            hint = "" if self.adaptor is not None else "; pass an adaptor, such as a Linear layer"
            raise Error(
                f"[{where}] student must have the shape of teacher {tuple(teacher.shape)}, got "
                f"{tuple(student.shape)}{hint}"
            )

        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.feature_loss(s, t, mask=mask)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            squares = (s - t).pow(2) if mask is None else (s[mask] - t[mask]).pow(2)
            return squares.sum() / max(squares.numel(), 1)

        return core_loss(student, teacher, core, composite)
