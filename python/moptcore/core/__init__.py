# SPDX-License-Identifier: Apache-2.0
"""What every technique shares in Python: selectors, coverage tables and sealed states."""

from __future__ import annotations

from moptcore._core.quant import QParams
from moptcore.core.coverage import Coverage, CoverageError, require, table
from moptcore.core.selectors import Pattern, Selection, select
from moptcore.core.state import FORMAT, fingerprint_of, seal, unseal

__all__ = [
    "FORMAT",
    "Coverage",
    "CoverageError",
    "Pattern",
    "QParams",
    "Selection",
    "fingerprint_of",
    "require",
    "seal",
    "select",
    "table",
    "unseal",
]
