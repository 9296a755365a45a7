# SPDX-License-Identifier: Apache-2.0
"""Losses that let a student network learn from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from moptcore import DTypeError, Error, _core
from moptcore.torch import operators
from moptcore.torch.arguments import check_adaptor, number, same_device, tensor
from moptcore.torch.relations import core_loss

__all__ = ["DistillationLoss", "FeatureDistillationLoss"]

_REDUCTIONS = ("batchmean", "sum", "none")


class DistillationLoss(torch.nn.Module):
    """alpha T^2 KL(teacher || student) at temperature T + (1 - alpha) cross-entropy.

    Value and gradient are computed in one fused pass, in float32 (float64 for float64 logits),
    under autocast too. Rows are all axes but ``axis``; rows whose label is ``ignore_index`` count
    neither in the terms nor in the divisor. The gradient goes to the student only.

    standardize: z-scores of the logits in the teacher's term (Sun et al., "Logit standardization
        in knowledge distillation", arXiv:2403.01427).
    teacher_weights: one for each of several teachers, equal if None; divided by their sum.
    each_teacher: True adds the losses against the teachers, by their weights; False takes the one
        against the average of their probabilities. Both have the same gradient by the student,
        unless standardized.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.

    Raises Error for a temperature that is not finite and > 0, alpha or label_smoothing outside
    [0, 1], and a reduction that is not "batchmean", "sum" or "none".
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 0.7,
        axis: int = -1,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "batchmean",
        standardize: bool = False,
        teacher_weights: Sequence[float] | None = None,
        each_teacher: bool = False,
    ) -> None:
        super().__init__()
        where = "torch.DistillationLoss"
        self.temperature = number(where, "temperature", temperature, 0.0, open_low=True)
        self.alpha = number(where, "alpha", alpha, 0.0, 1.0)
        self.label_smoothing = number(where, "label_smoothing", label_smoothing, 0.0, 1.0)
        for name, integer in (("axis", axis), ("ignore_index", ignore_index)):
            if isinstance(integer, bool) or not hasattr(integer, "__index__"):
                raise DTypeError(f"[{where}] {name} must be an integer, got {integer!r}")
        if reduction not in _REDUCTIONS:
            raise Error(f"[{where}] reduction must be one of {_REDUCTIONS}, got {reduction!r}")
        self.axis = int(axis)
        self.ignore_index = int(ignore_index)
        self.reduction = reduction
        self.standardize = bool(standardize)
        self.each_teacher = bool(each_teacher)
        self.teacher_weights = None
        if teacher_weights is not None:
            self.teacher_weights = tuple(
                number(where, "teacher_weights", each, 0.0) for each in teacher_weights
            )
            if not sum(self.teacher_weights) > 0:
                raise Error(f"[{where}] teacher_weights must have a sum > 0, got {teacher_weights}")

    def forward(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor | Sequence[torch.Tensor],
        labels: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of logits [..., classes, ...] against integer labels in the rows' shape.

        `teacher_logits` is one tensor or a list of several teachers'. Without labels only the
        teacher counts (alpha = 1). `mask`, bool in the rows' shape, is True for the rows that
        count. Reduction "none" gives one loss a row, 0 where masked.
        Raises Error for shapes that disagree and labels out of range.
        """
        where = "torch.DistillationLoss"
        if isinstance(teacher_logits, list | tuple):
            return self._several(student_logits, teacher_logits, labels, mask)
        if self.teacher_weights is not None and len(self.teacher_weights) != 1:
            raise Error(
                f"[{where}] teacher_logits must be a list of {len(self.teacher_weights)} tensors, "
                f"one for each of teacher_weights, got {type(teacher_logits).__name__}"
            )
        return self._one(student_logits, teacher_logits, labels, mask)

    def _one(
        self,
        student_logits: torch.Tensor,
        teacher_logits: Any,
        labels: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        where = "torch.DistillationLoss"
        teacher = tensor(where, "teacher_logits", teacher_logits)
        if mask is not None:
            return self._masked(student_logits, teacher, labels, mask)
        names = ("student_logits", "teacher_logits")
        operators.check_logits(where, names, student_logits, teacher, labels)
        if student_logits.shape != teacher.shape:
            raise Error(
                f"[{where}] teacher_logits must match student_logits {tuple(student_logits.shape)}"
                f", got {tuple(teacher.shape)}"
            )
        if teacher.dtype != student_logits.dtype:
            wide = torch.promote_types(student_logits.dtype, teacher.dtype)
            student_logits, teacher = student_logits.to(wide), teacher.to(wide)
        options = (
            self.temperature,
            self.alpha,
            self.axis,
            self.label_smoothing,
            self.ignore_index,
            self.reduction,
        )
        if self.standardize:
            return self._standardized(student_logits, teacher, labels, options)
        return operators.distillation_loss(student_logits, teacher, labels, options)

    def _several(
        self,
        student: torch.Tensor,
        teachers: Sequence[torch.Tensor],
        labels: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        where = "torch.DistillationLoss"
        weights = self.teacher_weights or (1.0,) * len(teachers)
        if not teachers or len(weights) != len(teachers):
            raise Error(
                f"[{where}] teacher_logits must be {len(weights) or 'one or more'} tensors, one "
                f"for each of teacher_weights, got {len(teachers)}"
            )
        for each in teachers:
            operators.check_logits(where, ("student_logits", "teacher_logits"), student, each, None)
            if each.shape != student.shape:
                raise Error(
                    f"[{where}] teacher_logits must match student_logits {tuple(student.shape)}, "
                    f"got {tuple(each.shape)}"
                )
        if self.each_teacher:
            shares = [weight / sum(weights) for weight in weights]
            losses = [
                share * self._one(student, each, labels, mask)
                for share, each in zip(shares, teachers, strict=True)
                if share > 0
            ]
            return torch.stack(losses).sum(0)
        wide = torch.promote_types(student.dtype, torch.float32)
        given = [each.detach().to(wide) for each in teachers]
        if student.device.type == "cpu" and not torch.compiler.is_compiling():
            average = _core.distill.average_teachers(given, weights, self.temperature, self.axis)
        else:
            shares_log = torch.tensor(weights, dtype=wide, device=student.device)
            shares_log = (shares_log / shares_log.sum()).log()
            soft = [(x / self.temperature).log_softmax(self.axis) for x in given]
            terms = [x + share for x, share in zip(soft, shares_log, strict=True)]
            average = self.temperature * torch.logsumexp(torch.stack(terms), 0)
        return self._one(student, average, labels, mask)

    def _masked(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Of the kept rows alone: the others are not read."""
        where = "torch.DistillationLoss"
        names = ("student_logits", "teacher_logits")
        operators.check_logits(where, names, student, teacher, labels)
        same_device(where, "mask", tensor(where, "mask", mask), names[0], student)
        if mask.dtype != torch.bool:
            raise DTypeError(f"[{where}] mask must be bool, got {mask.dtype}")
        rows = student.movedim(self.axis, -1)
        for name, each in (("mask", mask), ("labels", labels)):
            if each is not None and each.shape != rows.shape[:-1]:
                raise Error(
                    f"[{where}] {name} must have the shape of the rows {tuple(rows.shape[:-1])}, "
                    f"got {tuple(each.shape)}"
                )
        if teacher.shape != student.shape:
            raise Error(
                f"[{where}] teacher_logits must match student_logits {tuple(student.shape)}, got "
                f"{tuple(teacher.shape)}"
            )
        last = DistillationLoss(
            self.temperature,
            self.alpha,
            -1,
            self.label_smoothing,
            self.ignore_index,
            self.reduction,
            self.standardize,
        )
        kept = None if labels is None else labels[mask]
        loss: torch.Tensor = last(rows[mask], teacher.movedim(self.axis, -1)[mask], kept)
        if self.reduction != "none":
            return loss
        return loss.new_zeros(mask.shape).index_put((mask,), loss)

    def _standardized(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        options: operators.Options,
    ) -> torch.Tensor:
        def core(s: torch.Tensor, t: torch.Tensor) -> tuple[Any, Any]:
            return _core.distill.soft_target_loss(s, t, labels, *options, standardize=True)

        def composite(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            alpha = 1.0 if labels is None else self.alpha
            scores = (_scores(s, self.axis), _scores(t, self.axis))
            terms = []
            for weight, share, pair in ((1.0, alpha, scores), (0.0, 1 - alpha, (s, t))):
                if share > 0:
                    chosen = (options[0], weight, *options[2:])
                    terms.append(share * operators.distillation_loss(*pair, labels, chosen))
            return torch.stack(terms).sum(0)

        if self.reduction == "none":
            # One factor a row reaches the gradient, which the composite hands on by itself.
            wide = torch.promote_types(student.dtype, torch.float32)
            return composite(student.to(wide), teacher.detach().to(wide))
        return core_loss(student, teacher, core, composite)

    def extra_repr(self) -> str:
        text = (
            f"temperature={self.temperature}, alpha={self.alpha}, axis={self.axis}, "
            f"label_smoothing={self.label_smoothing}, ignore_index={self.ignore_index}, "
            f"reduction={self.reduction!r}"
        )
        return text + (", standardize=True" if self.standardize else "")


def _scores(x: torch.Tensor, axis: int) -> torch.Tensor:
    """z-scores over an axis; 0, with slope 0, for equal values."""
    varied = (x != x.narrow(axis, 0, 1)).any(axis, keepdim=True)
    centred = x - x.mean(axis, keepdim=True)
    squares = centred.pow(2).sum(axis, keepdim=True) / max(x.shape[axis] - 1, 1)
    return centred * varied / torch.where(varied, squares, torch.ones_like(squares)).sqrt()


class FeatureDistillationLoss(torch.nn.Module):
    """feature_weight * MSE(adaptor(student features), teacher features) + output_weight * output.

    output_loss: takes (student_logits, teacher_logits, labels); DistillationLoss() if None.
    adaptor: maps student features to the teacher's shape, for example a Linear; its parameters
        are this module's and train with the student. None where the shapes agree.

    Romero et al., "FitNets", arXiv:1412.6550.

    Raises Error for weights that are negative or not finite.
    """

    def __init__(
        self,
        feature_weight: float = 0.3,
        output_weight: float = 0.7,
        adaptor: torch.nn.Module | None = None,
        output_loss: torch.nn.Module | None = None,
    ) -> None:
        super().__init__()
        where = "torch.FeatureDistillationLoss"
        self.feature_weight = number(where, "feature_weight", feature_weight, 0.0)
        self.output_weight = number(where, "output_weight", output_weight, 0.0)
        check_adaptor(where, adaptor)
        self.adaptor = adaptor
        self.output_loss = DistillationLoss() if output_loss is None else output_loss

    def forward(
        self,
        student_features: torch.Tensor,
        teacher_features: torch.Tensor,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The weighted sum; the teacher's features and logits are constants.

        Raises Error where the features disagree in shape after the adaptor.
        """
        where = "torch.FeatureDistillationLoss"
        tensor(where, "student_features", student_features)
        tensor(where, "teacher_features", teacher_features)
        if self.adaptor is not None:
            student_features = self.adaptor(student_features)
        if student_features.shape != teacher_features.shape:
            hint = "" if self.adaptor is not None else "; pass an adaptor, such as a Linear layer"
            raise Error(
                "[torch.FeatureDistillationLoss] student_features must have the shape of "
                f"teacher_features {tuple(teacher_features.shape)}, got "
                f"{tuple(student_features.shape)}{hint}"
            )
        same_device(
            where, "teacher_features", teacher_features, "student_features", student_features
        )
        wide = torch.promote_types(student_features.dtype, torch.float32)
        features = torch.nn.functional.mse_loss(
            student_features.to(wide), teacher_features.detach().to(wide)
        )
        output: torch.Tensor = self.output_loss(student_logits, teacher_logits, labels)
        return self.feature_weight * features + self.output_weight * output

    def extra_repr(self) -> str:
        return f"feature_weight={self.feature_weight}, output_weight={self.output_weight}"
