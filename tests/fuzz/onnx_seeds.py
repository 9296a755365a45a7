# SPDX-License-Identifier: Apache-2.0
"""Writes the small models that fuzz_onnx begins with: one of each test case of the onnx package.

usage: python tests/fuzz/onnx_seeds.py FOLDER
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
from onnx.backend.test.loader import load_model_tests

LARGEST = 4096


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        model = case.model.SerializeToString()
        if len(model) <= LARGEST:
            (folder / hashlib.sha1(model).hexdigest()).write_bytes(model)


if __name__ == "__main__":
    main()
