# SPDX-License-Identifier: Apache-2.0
"""The command `moptcore`: demo, doctor, inspect. Needs `pip install 'moptcore[demo]'`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from moptcore import Error

__all__ = ["main", "require"]

_USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; a user's error is one line on stderr."""
    try:
        require("typer", "rich")
        importlib.import_module("moptcore.cli.commands").app(args=arguments, prog_name="moptcore")
    except (Error, ModuleNotFoundError) as error:
        print(f"moptcore: {error}", file=sys.stderr)
        return _USER_ERROR
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def require(*modules: str) -> None:
    """Raises ModuleNotFoundError naming all of these that are not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"this command needs {', '.join(missing)}, "
            "install what is missing with: pip install 'moptcore[demo]'"
        )
