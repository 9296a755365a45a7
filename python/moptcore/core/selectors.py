# SPDX-License-Identifier: Apache-2.0
"""Which parameters a technique works on: include and exclude."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from moptcore._core import DTypeError, Error

__all__ = ["Pattern", "Selection", "select"]

Pattern = str | type | Callable[[str, Any], bool]
"""A glob on module path or parameter name, a type, or a callable taking (module path, module)."""

_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """One candidate, whether it is selected, and if not, why not."""

    path: str
    parameter: str
    module: Any
    selected: bool
    reason: str


def select(
    candidates: Sequence[tuple[str, str, Any]],
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    where: str = "core.select",
    *,
    modules: Mapping[str, Any] | None = None,
    others: Mapping[str, str] | None = None,
) -> list[Selection]:
    """Every candidate ``(module path, full parameter name, module)`` with its verdict, in order.

    Globs (case-sensitive) are matched against the parameter name, the module path and the paths
    of the modules around it; types against the module and, where ``modules`` maps all paths of
    the model to modules, against those around it; callables get (module path, module).
    ``exclude`` beats ``include``; no ``include`` takes everything. ``others`` says of parameters
    that are no candidates why they are none.

    Raises Error (a ValueError) for a pattern that matches nothing, with the nearest names. A
    pattern of ``exclude`` may match modules that hold no candidate.
    """
    known = dict(modules or {})
    for path, _, module in candidates:
        known.setdefault(path, module)
    wanted = None if include is None else _patterns(include, "include", where)
    unwanted = [] if exclude is None else _patterns(exclude, "exclude", where)
    for argument, patterns in (("include", wanted or []), ("exclude", unwanted)):
        for pattern in patterns:
            if any(_matches(pattern, *candidate, known) for candidate in candidates):
                continue
            elsewhere = [
                path for path in known if _matches(pattern, path, path, known[path], known)
            ]
            why = [
                f"{name}: {reason}"
                for name, reason in (others or {}).items()
                if isinstance(pattern, str) and fnmatchcase(name, pattern)
            ]
            if argument == "include" or not (elsewhere or why):
                text = _no_match(pattern, argument, where, candidates, known, elsewhere, why)
                raise Error(text)
    return [
        Selection(*candidate, not reason, reason)
        for candidate in candidates
        for reason in [_reason(candidate, wanted, unwanted, known)]
    ]


def _patterns(given: Pattern | Iterable[Pattern], argument: str, where: str) -> list[Pattern]:
    if isinstance(given, str | type) or callable(given):
        patterns: list[Pattern] = [given]
    elif isinstance(given, Iterable):
        patterns = list(given)
    else:
        raise DTypeError(
            f"[{where}] {argument} must be a glob, a type, a callable or several of them, "
            f"got {given!r}"
        )
    for pattern in patterns:
        if not (isinstance(pattern, str | type) or callable(pattern)):
            raise DTypeError(
                f"[{where}] {argument} must hold globs, types or callables, got {pattern!r}"
            )
        if not isinstance(pattern, str | type) and not _takes_two(pattern):
            raise DTypeError(
                f"[{where}] {argument} callables must take (module path, module), "
                f"got {_shown(pattern)}{inspect.signature(pattern)}"
            )
    return patterns


def _takes_two(pattern: Callable[[str, Any], bool]) -> bool:
    try:
        signature = inspect.signature(pattern)
    except ValueError:
        return True  # compiled functions need not tell theirs
    try:
        signature.bind("", None)
    except TypeError:
        return False
    return True


def _reason(
    candidate: tuple[str, str, Any],
    wanted: list[Pattern] | None,
    unwanted: list[Pattern],
    known: Mapping[str, Any],
) -> str:
    for pattern in unwanted:
        if _matches(pattern, *candidate, known):
            return f"excluded by {_shown(pattern)}"
    if wanted is not None and not any(_matches(pattern, *candidate, known) for pattern in wanted):
        return "not in include"
    return ""


def _matches(
    pattern: Pattern, path: str, parameter: str, module: Any, known: Mapping[str, Any]
) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(parameter, pattern) or any(
            fnmatchcase(around, pattern) for around in _around(path)
        )
    if isinstance(pattern, type):
        return isinstance(module, pattern) or any(
            isinstance(known[around], pattern) for around in _around(path) if around in known
        )
    return bool(pattern(path, module))


def _around(path: str) -> Iterator[str]:
    """The path itself and those of the modules that hold it, without the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _no_match(
    pattern: Pattern,
    argument: str,
    where: str,
    candidates: Sequence[tuple[str, str, Any]],
    known: Mapping[str, Any],
    elsewhere: Sequence[str],
    why: Sequence[str],
) -> str:
    text = f"[{where}] {argument} patterns must match a module or parameter, got {_shown(pattern)}"
    if why:
        return f"{text}; {', '.join(why[:_SHOWN_NAMES])}"
    if elsewhere:
        found = ", ".join(elsewhere[:_SHOWN_NAMES])
        return f"{text}, which matches only modules without such a parameter: {found}"
    if isinstance(pattern, str):
        names = list(dict.fromkeys([*filter(None, known), *(c[1] for c in candidates)]))
        near = difflib.get_close_matches(pattern, names, _SHOWN_NAMES, 0.5) or names[:_SHOWN_NAMES]
        label = "nearest names"
    else:
        near = sorted({type(module).__name__ for module in known.values() if module is not None})
        label = "module types"
    return f"{text}; {label}: {', '.join(near) or 'none'}"


def _shown(pattern: Pattern) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    return getattr(pattern, "__qualname__", repr(pattern))
