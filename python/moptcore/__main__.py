# SPDX-License-Identifier: Apache-2.0
"""`python -m moptcore` is the command `moptcore`."""

from __future__ import annotations

import sys

from moptcore.cli import main

sys.exit(main())
