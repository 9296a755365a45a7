# SPDX-License-Identifier: Apache-2.0
"""PyTorch: prune, quantize, cluster, factorize and distil modules, most of it while they train.

The module keeps its class, names and shapes; what is added comes off again with `strip`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moptcore.torch.clustering import Clusterer, Codebook, cluster, weight_share
from moptcore.torch.compression import Compression
from moptcore.torch.distillation import DistillationLoss, FeatureDistillationLoss
from moptcore.torch.evaluation import Comparison, Sparsity, compare, evaluate, sparsity
from moptcore.torch.fake_quant import fake_quantize
from moptcore.torch.features import FeatureExtractor
from moptcore.torch.inference import Optimized, optimize_for_gpu, predict
from moptcore.torch.learned import lsq
from moptcore.torch.memory import CheckpointedSequential, MemoryUsage, data_loader, memory_usage
from moptcore.torch.operators import apply_mask, magnitude_mask, soft_target_loss
from moptcore.torch.pack import load_packed, save_packed
from moptcore.torch.pruner import Pruner, Schedule
from moptcore.torch.reconstruction import prune_with_reconstruction
from moptcore.torch.relations import (
    AttentionTransferLoss,
    CosineLoss,
    DistLoss,
    HintLoss,
    RelationalLoss,
    SimilarityLoss,
)
from moptcore.torch.strip import strip
from moptcore.torch.training import distill, fingerprint, train
from moptcore.torch.weights import quantize_weights

if TYPE_CHECKING:
    from moptcore.torch import prune
    from moptcore.torch.calibration import quantize_static
    from moptcore.torch.channels import ChannelRemoval, remove_channels
    from moptcore.torch.export import export_onnx, to_graph
    from moptcore.torch.lowrank import Factorization, apply_factorization, factorize
    from moptcore.torch.qat import prepare_qat

__all__ = [
    "AttentionTransferLoss",
    "ChannelRemoval",
    "CheckpointedSequential",
    "Clusterer",
    "Codebook",
    "Comparison",
    "Compression",
    "CosineLoss",
    "DistLoss",
    "DistillationLoss",
    "Factorization",
    "FeatureDistillationLoss",
    "FeatureExtractor",
    "HintLoss",
    "MemoryUsage",
    "Optimized",
    "Pruner",
    "RelationalLoss",
    "Schedule",
    "SimilarityLoss",
    "Sparsity",
    "apply_factorization",
    "apply_mask",
    "cluster",
    "compare",
    "data_loader",
    "distill",
    "evaluate",
    "export_onnx",
    "factorize",
    "fake_quantize",
    "fingerprint",
    "load_packed",
    "lsq",
    "magnitude_mask",
    "memory_usage",
    "optimize_for_gpu",
    "predict",
    "prepare_qat",
    "prune",
    "prune_with_reconstruction",
    "quantize_static",
    "quantize_weights",
    "remove_channels",
    "save_packed",
    "soft_target_loss",
    "sparsity",
    "strip",
    "to_graph",
    "train",
    "weight_share",
]

# Loaded on first use: the exporter pulls in onnx, low rank oneDNN.
_LAZY = {
    "ChannelRemoval": "channels",
    "Factorization": "lowrank",
    "apply_factorization": "lowrank",
    "export_onnx": "export",
    "factorize": "lowrank",
    "prepare_qat": "qat",
    "quantize_static": "calibration",
    "remove_channels": "channels",
    "to_graph": "export",
}


def __getattr__(name: str) -> Any:
    if name == "prune":
        return importlib.import_module("moptcore.torch.prune")
    if name in _LAZY:
        return getattr(importlib.import_module(f"moptcore.torch.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'moptcore.torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "prune"})
