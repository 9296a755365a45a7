# SPDX-License-Identifier: Apache-2.0
"""Post-training static quantization: ranges from calibration data, no training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch

from moptcore import DTypeError, Error, quant
from moptcore.core import Pattern
from moptcore.torch import inputs
from moptcore.torch.qat import ActivationQuantizer, QuantizedModel, prepare_qat

__all__ = ["quantize_static"]

_OBSERVERS = {
    "minmax": "MinMaxObserver",
    "mean": "MovingAverageObserver",
    "percentile": "PercentileObserver",
    "entropy": "EntropyObserver",
    "mse": "MSEObserver",
    "histogram": "HistogramObserver",
}


def quantize_static(
    model: torch.nn.Module,
    calibration: Iterable[Any],
    *,
    ranges: str = "minmax",
    scheme: str = "int8",
    batches: int | None = None,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    strict: bool = False,
) -> QuantizedModel:
    """A copy of `model` in int8 with activation ranges from calibration data; in eval mode.

    calibration: batches as the model takes them: tensors, or (x, y) of which x is taken. They are
        read once, `batches` of them at most (None: all); memory does not grow with their number.
    ranges: what an activation's range is: "minmax" all values, "mean" the mean of the batches'
        ranges, or a clip of the histogram: "percentile", "entropy" (KL), "mse", "histogram" (L2);
        see the observers of moptcore.quant.
    scheme, include, exclude, strict: as in `prepare_qat`, whose module this returns: it exports
        with `export_onnx` and can be trained further. BatchNorm is folded, its statistics do not
        move.

    Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-
    only inference", arXiv:1712.05877. Raises Error where there is no batch.
    """
    where = "torch.quantize_static"
    if ranges not in _OBSERVERS:
        raise Error(f"[{where}] ranges must be one of {[*_OBSERVERS]}, got {ranges!r}")
    if batches is not None and (not isinstance(batches, int) or batches < 1):
        raise Error(f"[{where}] batches must be an integer >= 1 or None, got {batches!r}")
    source = inputs.batches(where, "calibration", calibration)
    first = next(source)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = _input(first, device, where)
    quantized = prepare_qat(model, example, scheme, "simulate", include, exclude, strict).eval()
    observers: dict[ActivationQuantizer, Any] = {
        module: getattr(quant, _OBSERVERS[ranges])()
        for module in quantized.modules()
        if isinstance(module, ActivationQuantizer)
    }

    def update(quantizer: ActivationQuantizer, value: torch.Tensor) -> None:
        x = value.detach()
        if quantizer.bounds is not None:
            x = x.clamp(*quantizer.bounds)
        observers[quantizer].update(x.cpu())

    for quantizer in observers:
        quantizer.passing = True
    for index, batch in enumerate(chain([first], source)):
        if batches is not None and index >= batches:
            break
        quantized.measure((_input(batch, device, where),), update)
    for quantizer, observer in observers.items():
        quantizer.passing = False
        qp = observer.qparams(dtype="uint8", symmetric=False)
        quantizer.fix(float(qp.scale), int(qp.zero_point))
    return quantized


def _input(batch: Any, device: torch.device, where: str) -> torch.Tensor:
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, torch.Tensor):
        raise DTypeError(f"[{where}] calibration must yield tensors, got {type(x).__name__}")
    return x.to(device)
