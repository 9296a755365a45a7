# SPDX-License-Identifier: Apache-2.0
"""What one call costs: an array of one element, in and out, from each framework."""

from __future__ import annotations

import moptcore as mc
import numpy as np
import torch
from harness import per_call
from moptcore import _core


def main() -> None:
    array = np.ones(1, np.float32)
    tensor = torch.ones(1)
    array_mask = np.empty(1, bool)
    tensor_mask = torch.empty(1, dtype=torch.bool)
    mask = mc.prune.magnitude_mask
    rows = {
        "numpy: copy(x)": lambda: _core.copy(array),
        "numpy: magnitude_mask(x, 0.5)": lambda: mask(array, 0.5),
        "numpy: magnitude_mask(x, 0.5, out=)": lambda: mask(array, 0.5, out=array_mask),
        "torch: copy(x)": lambda: _core.copy(tensor),
        "torch: magnitude_mask(x, 0.5)": lambda: mask(tensor, 0.5),
        "torch: magnitude_mask(x, 0.5, out=)": lambda: mask(tensor, 0.5, out=tensor_mask),
        "numpy.copy, for comparison": array.copy,
        "torch.clone, for comparison": tensor.clone,
    }
    print("microseconds a call, one element")
    for name, way in rows.items():
        print(f"  {name:<40} {per_call(way):7.2f}")


if __name__ == "__main__":
    main()
