# SPDX-License-Identifier: Apache-2.0
"""How OpenMP's threads wait for one another.

libgomp lets threads that have nothing to do spin for about a millisecond. Where other programs want
the same cores, the thread that is waited for gets none meanwhile: a model with 60 parallel steps
took 40 times as long. libgomp reads its settings once, when it is loaded: what was imported before
moptcore and shares the library decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["SPINS", "short_waits"]

# Some microseconds: as long as a thread that is running needs to arrive.
SPINS = "1000"


@contextmanager
def short_waits() -> Iterator[None]:
    """libgomp, if it is loaded inside, waits for SPINS rounds before it sleeps.

    What the user has set in OMP_WAIT_POLICY or GOMP_SPINCOUNT stands. The environment is as before
    afterwards.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
