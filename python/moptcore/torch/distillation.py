# SPDX-License-Identifier: Apache-2.0
"""Losses that let a student network learn from a teacher."""

from __future__ import annotations

import torch

from moptcore import DTypeError, Error
from moptcore.torch import operators
from moptcore.torch.arguments import number, same_device, tensor

__all__ = ["DistillationLoss", "FeatureDistillationLoss"]

_REDUCTIONS = ("batchmean", "sum", "none")


class DistillationLoss(torch.nn.Module):
    """alpha T^2 KL(teacher || student) at temperature T + (1 - alpha) cross-entropy.

    Value and gradient are computed in one fused pass, in float32 (float64 for float64 logits),
    under autocast too. Rows are all axes but ``axis``; rows whose label is ``ignore_index`` count
    neither in the terms nor in the divisor. The gradient goes to the student only.

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

    def forward(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of logits [..., classes, ...] against integer labels in the rows' shape.

        Without labels only the teacher counts (alpha = 1). Reduction "none" gives one loss a row.
        Raises Error for shapes that disagree and labels out of range.
        """
        where = "torch.DistillationLoss"
        names = ("student_logits", "teacher_logits")
        operators.check_logits(where, names, student_logits, teacher_logits, labels)
        if student_logits.shape != teacher_logits.shape:
            raise Error(
                f"[{where}] teacher_logits must match student_logits {tuple(student_logits.shape)}"
                f", got {tuple(teacher_logits.shape)}"
            )
        if teacher_logits.dtype != student_logits.dtype:
            wide = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
            student_logits, teacher_logits = student_logits.to(wide), teacher_logits.to(wide)
        options = (
            self.temperature,
            self.alpha,
            self.axis,
            self.label_smoothing,
            self.ignore_index,
            self.reduction,
        )
        return operators.distillation_loss(student_logits, teacher_logits, labels, options)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, alpha={self.alpha}, axis={self.axis}, "
            f"label_smoothing={self.label_smoothing}, ignore_index={self.ignore_index}, "
            f"reduction={self.reduction!r}"
        )


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
