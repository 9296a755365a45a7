# SPDX-License-Identifier: Apache-2.0
"""What a state was made with, stored beside it: another part must not go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moptcore import FormatError

__all__ = ["check", "entry"]


def entry(settings: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """The settings as the bytes of a JSON object, for a state of arrays."""
    return np.frombuffer(json.dumps(settings, default=int).encode(), np.uint8).copy()


def check(where: str, entries: Mapping[str, Any], key: str, settings: Mapping[str, Any]) -> None:
    """Raises FormatError naming the setting that differs from those in `entries[key]`."""
    found = entries.get(key)
    try:
        text = b"" if found is None else np.asarray(found, np.uint8).tobytes()
        others = json.loads(text)
        if not isinstance(others, dict):
            raise ValueError(text)
    except ValueError as error:
        raise FormatError(f"[{where}] state must hold {key} as JSON, got {found}") from error
    # As JSON has them: a tuple is a list there.
    for name, value in json.loads(entry(settings).tobytes()).items():
        if others.get(name) != value:
            raise FormatError(
                f"[{where}] {name} must be that of the state, {others.get(name)!r}, got {value!r}"
            )
