# SPDX-License-Identifier: Apache-2.0
"""What several suites ask of their surroundings, by name: pytest.mark.usefixtures("one_thread")."""

from __future__ import annotations

from collections.abc import Iterator

import moptcore
import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait by spinning make small tensors slow on a busy machine."""
    import torch  # only suites that use torch ask for this

    threads = torch.get_num_threads(), moptcore.get_num_threads()
    torch.set_num_threads(1)
    moptcore.set_num_threads(1)
    yield
    torch.set_num_threads(threads[0])
    moptcore.set_num_threads(threads[1])


@pytest.fixture
def seeded() -> None:
    import torch

    torch.manual_seed(0)
