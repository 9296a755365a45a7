# SPDX-License-Identifier: Apache-2.0
"""PyTorch: prune, quantize and distil modules while they train.

The module keeps its class, names and shapes; what is added comes off again with `strip`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moptcore.torch.clustering import Clusterer, Codebook, cluster, weight_share
from moptcore.torch.compression import Compression
from moptcore.torch.distillation import DistillationLoss, FeatureDistillationLoss
from moptcore.torch.evaluation import evaluate
from moptcore.torch.fake_quant import fake_quantize
from moptcore.torch.learned import lsq
from moptcore.torch.operators import apply_mask, magnitude_mask, soft_target_loss
from moptcore.torch.pruner import Pruner, Schedule, Sparsity
from moptcore.torch.strip import strip

if TYPE_CHECKING:
    from moptcore.torch import prune
    from moptcore.torch.export import export_onnx
    from moptcore.torch.qat import prepare_qat

__all__ = [
    "Clusterer",
    "Codebook",
    "Compression",
    "DistillationLoss",
    "FeatureDistillationLoss",
    "Pruner",
    "Schedule",
    "Sparsity",
    "apply_mask",
    "cluster",
    "evaluate",
    "export_onnx",
    "fake_quantize",
    "lsq",
    "magnitude_mask",
    "prepare_qat",
    "prune",
    "soft_target_loss",
    "strip",
    "weight_share",
]

# Loaded on first use: the exporter pulls in onnx.
_LAZY = {"export_onnx": "export", "prepare_qat": "qat"}


def __getattr__(name: str) -> Any:
    if name == "prune":
        return importlib.import_module("moptcore.torch.prune")
    if name in _LAZY:
        return getattr(importlib.import_module(f"moptcore.torch.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'moptcore.torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "prune"})
