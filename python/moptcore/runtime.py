# SPDX-License-Identifier: Apache-2.0
"""Runs models: planned once for each set of input shapes, with oneDNN.

session = moptcore.Session("model.onnx", threads=2)
outputs = session.run({"input": x})
"""

from __future__ import annotations

try:
    from moptcore._runtime.runtime import Profile, ProfileRow, Session
except ImportError as error:
    raise ImportError(
        "[runtime] moptcore.Session needs the oneDNN library (pip install onednn-cpu-gomp) and a "
        f"build of moptcore that found it: {error}"
    ) from error

__all__ = ["Profile", "ProfileRow", "Session"]
