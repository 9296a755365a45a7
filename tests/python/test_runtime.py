# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import moptcore as mc
import numpy as np
import pytest
from moptcore import quant

runtime = pytest.importorskip(
    "moptcore._runtime", reason="built without oneDNN", exc_type=ModuleNotFoundError
)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_onednn_gives_our_bits_for_scales_that_are_powers_of_two(dtype, zero_point):
    x = (50 * np.random.default_rng(0).standard_normal((4, 3, 257))).astype(np.float32)
    for scale, axis in ((0.5, None), ([0.25, 1.0, 2.0], 1), ([0.25, 1.0, 2.0], -2)):
        qp = quant.QParams(scale=scale, zero_point=zero_point, dtype=dtype, axis=axis)
        q = quant.quantize(x, qp)
        np.testing.assert_array_equal(quant.quantize(x, qp, backend="onednn"), q)
        out = np.empty_like(q)
        assert quant.quantize(x, qp, out=out, backend="onednn") is out
        np.testing.assert_array_equal(out, q)
        np.testing.assert_array_equal(
            quant.dequantize(q, qp, backend="onednn"), quant.dequantize(q, qp)
        )


def test_onednn_returns_the_callers_kind():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 101)
    qp = quant.QParams(scale=0.25)
    q = quant.quantize(x, qp, backend="onednn")
    assert q.dtype == torch.int8
    assert torch.equal(q, quant.quantize(x, qp))
    assert torch.equal(quant.dequantize(q, qp, backend="onednn"), quant.dequantize(q, qp))


def test_the_backend_is_named_when_it_cannot():
    qp = quant.QParams(scale=0.25)
    x = np.ones(4, np.float32)
    with pytest.raises(mc.Error, match=r"\[quant.quantize\] backend must be None or .*got tpu"):
        quant.quantize(x, qp, backend="tpu")
    with pytest.raises(mc.UnsupportedError, match="takes float32, got float64"):
        quant.quantize(x.astype(np.float64), qp, backend="onednn")
    with pytest.raises(mc.UnsupportedError, match="contiguous"):
        quant.quantize(np.ones(8, np.float32)[::2], qp, backend="onednn")
    with pytest.raises(mc.UnsupportedError, match="compat=None"):
        quant.quantize(x, qp, backend="onednn", compat="torch")
    with pytest.raises(mc.NonFiniteError, match="x must not contain NaN"):
        quant.quantize(x * np.nan, qp, backend="onednn")


def test_a_missing_library_is_reported_with_what_to_install():
    code = """
import sys
sys.modules["moptcore._runtime"] = None  # importing it raises ImportError
import numpy as np, moptcore as mc
try:
    mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5), backend="onednn")
except mc.UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install onednn-cpu-gomp" in done.stdout


def test_the_core_does_not_load_onednn():
    code = """
import numpy as np, moptcore as mc
mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5))
print("libdnnl" in open("/proc/self/maps").read())
mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5), backend="onednn")
print("libdnnl" in open("/proc/self/maps").read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
