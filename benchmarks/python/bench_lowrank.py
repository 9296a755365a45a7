# SPDX-License-Identifier: Apache-2.0
"""Truncated SVD against NumPy, PyTorch, scikit-learn and SciPy; errors first, then times."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from moptcore import lowrank

RANK = 64

Way = Callable[[], tuple[Any, Any]]


def matrices(m: int, n: int) -> dict[str, np.ndarray]:
    """A flat spectrum, the hard case, and one that falls as that of trained layers does."""
    rng = np.random.default_rng(0)
    gauss = rng.standard_normal((m, n))
    left = np.linalg.qr(gauss)[0]
    right = np.linalg.qr(rng.standard_normal((n, n)))[0]
    decay = (left * np.arange(1, left.shape[1] + 1) ** -0.7) @ right[: left.shape[1]]
    return {"gauss": gauss.astype(np.float32), "decay": decay.astype(np.float32)}


def scaled(u: Any, s: Any, v: Any) -> tuple[Any, Any]:
    return u[:, :RANK] * s[:RANK], v[:RANK]


def ways_of(w: np.ndarray) -> dict[str, Way]:
    tensor = torch.from_numpy(w)

    def torch_lowrank(q: int, niter: int) -> tuple[Any, Any]:
        u, s, v = torch.svd_lowrank(tensor, q=q, niter=niter)
        return scaled(u, s, v.T)

    ways: dict[str, Way] = {
        "moptcore krylov": lambda: lowrank.factorize(w, rank=RANK, method="krylov"),
        "moptcore randomized": lambda: lowrank.factorize(w, rank=RANK, method="randomized"),
        "moptcore svd": lambda: lowrank.factorize(w, rank=RANK),
        "numpy.linalg.svd": lambda: scaled(*np.linalg.svd(w, full_matrices=False)),
        "torch.linalg.svd": lambda: scaled(*torch.linalg.svd(tensor, full_matrices=False)),
        "torch.svd_lowrank(q=64, niter=2)": lambda: torch_lowrank(RANK, 2),
        "torch.svd_lowrank(q=80, niter=4)": lambda: torch_lowrank(RANK + 16, 4),
    }
    try:
        from sklearn.utils.extmath import randomized_svd
    except ImportError:
        pass
    else:
        ways["sklearn randomized_svd"] = lambda: scaled(*randomized_svd(w, RANK, random_state=0))
    try:
        from scipy.sparse.linalg import svds
    except ImportError:
        pass
    else:
        ways["scipy svds"] = lambda: scaled(*svds(w, RANK))
    return ways


def main(m: int, n: int) -> None:
    for name, w in matrices(m, n).items():
        values = np.linalg.svd(w.astype(np.float64), compute_uv=False)
        best = float(np.sqrt(np.sum(values[RANK:] ** 2)))
        ways = ways_of(w)
        print(f"\nerror above the optimum, {name} {m} x {n}, rank {RANK}")
        for way, compute in ways.items():
            u, v = (np.asarray(each, np.float64) for each in compute())
            above = float(np.linalg.norm(w - u @ v)) / best - 1
            print(f"  {way:<44} {above:10.1e}")
            # Rounding of float32 factors is above the optimum too.
            allowed = {"moptcore krylov": 1e-4, "moptcore svd": 1e-6}.get(way, 1.0)
            assert above <= allowed, (way, above)
        title = f"{name} {m} x {n}, rank {RANK}, {mc.get_num_threads()} threads"
        show(title, interleave(ways, seconds=10), "moptcore krylov")


if __name__ == "__main__":
    torch.set_num_threads(mc.get_num_threads())
    rows = [int(text) for text in sys.argv[1:]] or [1024, 4096]
    for count in rows:
        main(count, 1024)
