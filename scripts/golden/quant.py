# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/quant_tf.npz and quant_tflite.npz: what TensorFlow and TFLite really answer.

Needs tensorflow-cpu and ai-edge-litert, which do not share an environment with the tests:

    python -m venv .venv-peers && .venv-peers/bin/pip install tensorflow-cpu ai-edge-litert
    .venv-peers/bin/python scripts/golden/quant.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

# min, max, num_bits, narrow_range
RANGES = [
    (-1.0, 1.0, 8, True),
    (-1.3, 2.7, 8, False),
    (0.2, 1.0, 8, False),
    (-3.0, -0.5, 8, False),
    (0.0, 6.0, 8, False),
    (-1.0, 1.0, 4, False),
    (-0.7, 1.1, 2, False),
    (-2.0, 3.0, 16, False),
    (-1.7e-3, 2.2e-3, 8, True),
    (-2.5e4, 1e3, 8, False),
    (0.0, 0.0, 8, False),
]


def adversarial(scale: float, rng: np.random.Generator, count: int = 400) -> np.ndarray:
    """Ties and their neighbours, steps, denormals, infinities, NaN, 2^24 + 1, and noise."""
    scale = np.float32(scale) if scale else np.float32(0.01)
    steps = np.arange(-140, 140, dtype=np.float32)
    ties = (steps + np.float32(0.5)) * scale
    special = np.array(
        [
            0.0,
            -0.0,
            1e-45,
            -1e-40,
            1.1754944e-38,
            np.inf,
            -np.inf,
            np.nan,
            16777216.0,
            16777218.0,
            -16777216.0,
            3.4e38,
            -3.4e38,
            1e30,
            2.0**31,
            -(2.0**31),
            2.0**63,
        ],
        np.float32,
    )
    noise = (rng.standard_normal(count) * 100 * scale).astype(np.float32)
    return np.concatenate(
        [
            ties,
            np.nextafter(ties, np.float32(np.inf)),
            np.nextafter(ties, -np.float32(np.inf)),
            steps * scale,
            special,
            noise,
        ]
    ).astype(np.float32)


def fake_quant() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ops = tf.quantization
    result = {"ranges": np.array(RANGES, np.float64)}
    for i, (low, high, bits, narrow) in enumerate(RANGES):
        x = adversarial((high - low) / (2**bits - 1 - narrow), rng)
        ones = np.ones_like(x)
        args = (np.float32(low), np.float32(high), bits, narrow)
        vectors = (args[0][None], args[1][None], bits, narrow)
        result[f"x{i}"] = x
        result[f"y{i}"] = ops.fake_quant_with_min_max_vars(x, *args).numpy()
        result[f"pass{i}"] = np.packbits(
            ops.fake_quant_with_min_max_vars_gradient(ones, x, *args)[0].numpy() != 0,
            bitorder="little",
        )
        result[f"channel{i}"] = ops.fake_quant_with_min_max_vars_per_channel(
            x[:, None], *vectors
        ).numpy()[:, 0]
    return result


def convert(module: tf.Module, samples: list[np.ndarray]) -> bytes:
    """An int8 model whose activations are calibrated on one sample."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.run.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter([samples])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.float32
    converter.inference_output_type = tf.int8
    return converter.convert()


class Reshape(tf.Module):
    """Nothing but QUANTIZE and an int8 reshape."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.run = tf.function(
            lambda x: tf.reshape(x, [count, 1]),
            input_signature=[tf.TensorSpec([1, count], tf.float32)],
        )


class Convolution(tf.Module):
    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        kernel = tf.constant(weights.T[None, None])  # [1, 1, in, out]
        self.run = tf.function(
            lambda x: tf.nn.conv2d(x, kernel, 1, "VALID"),
            input_signature=[tf.TensorSpec([1, 1, 1, weights.shape[1]], tf.float32)],
        )


def tflite_activations(rng: np.random.Generator) -> dict[str, np.ndarray]:
    ranges = [
        (-1.0, 1.0),
        (-1.3, 2.7),
        (0.0, 3.0),
        (-2.0, 0.0),
        (0.5, 3.0),
        (-3.0, -1.0),
        (-1e-2, 3e-2),
        (-1e3, 7e2),
        (-0.1, 12.7),
        (-5.1, 5.0),
        (-6.0, 6.0),
        (-0.3, 0.3),
    ]
    ranges += [tuple(np.sort(rng.standard_normal(2) * 3)) for _ in range(12)]
    ranges = np.array(ranges, np.float32)
    result: dict[str, np.ndarray] = {"ranges": ranges}
    scales, zeros, counts = [], [], adversarial(1.0, rng).size
    for i, (low, high) in enumerate(ranges):
        sample = np.zeros((1, counts), np.float32)
        sample[0, :2] = low, high
        sample[0, 2:] = low
        model = convert(Reshape(counts), [sample])
        answers = {}
        for kind in (OpResolverType.BUILTIN_REF, OpResolverType.AUTO):
            interpreter = Interpreter(model_content=model, experimental_op_resolver_type=kind)
            interpreter.allocate_tensors()
            output = interpreter.get_output_details()[0]
            scale, zero = output["quantization"]
            x = adversarial(scale, np.random.default_rng(i))
            # A cast of NaN to an integer is undefined.
            x = np.where(np.isnan(x), np.float32(0), x)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
            interpreter.invoke()
            answers[kind] = interpreter.get_tensor(output["index"]).ravel()
        scales.append(scale)
        zeros.append(zero)
        if i < 12:
            result[f"x{i}"] = x
            result[f"reference{i}"] = answers[OpResolverType.BUILTIN_REF]
            result[f"default{i}"] = answers[OpResolverType.AUTO]
    result["scale"] = np.array(scales, np.float32)
    result["zero_point"] = np.array(zeros, np.int32)
    return result


def tflite_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    weights = (rng.standard_normal((16, 48)) * rng.uniform(0.01, 4, (16, 1))).astype(np.float32)
    # Channels of exact ties: the largest value is 127 (or 254) half steps.
    weights[0, :] = np.arange(-24, 24) + 0.5
    weights[0, 0] = 127.0
    weights[1, :] = np.arange(-24, 24) * 0.25
    weights[1, 0] = -31.75
    weights[2, 1:] = 0.0
    model = convert(Convolution(weights), [rng.standard_normal((1, 1, 1, 48)).astype(np.float32)])
    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    found = [
        detail
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8 and detail["shape"].tolist() == [16, 1, 1, 48]
    ]
    (detail,) = found
    return {
        "weights": weights,
        "weight_scale": detail["quantization_parameters"]["scales"],
        "weight_integers": interpreter.get_tensor(detail["index"])[:, 0, 0, :],
    }


def main() -> int:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "quant_tf.npz", **fake_quant())
    rng = np.random.default_rng(1)
    np.savez_compressed(
        GOLDEN / "quant_tflite.npz", **tflite_activations(rng), **tflite_weights(rng)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
