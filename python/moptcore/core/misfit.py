# SPDX-License-Identifier: Apache-2.0
"""The text of errors about arguments that fit no parameter of a bound function.

The bindings call `explain` once such a call has failed; nothing else pays for it.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from moptcore._core import DTypeError, describe

__all__ = ["explain"]

_ASARRAY = "[core.asarray] "
_WORDS = {
    "typing.SupportsFloat": "a number",
    "typing.SupportsInt": "an integer",
    "collections.abc.Callable": "callable",
    "int": "an integer",
    "float": "a number",
    "ArrayLike": "an array",
    "bool": "True or False",
}


class _Parameter(NamedTuple):
    name: str
    kinds: list[str]
    default: str


def explain(
    error: BaseException,
    where: str,
    signature: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> BaseException | None:
    """What to raise in place of `error`; None to keep it.

    `signature` is what pybind11 made of the function at `where` ("prune.magnitude_mask"), `args`
    and `kwargs` are those of the call. The new error names the first argument that does not fit,
    what it must be and what was given.
    """
    parameters = _parameters(signature)
    if parameters and parameters[0].name == "self":
        parameters, args = parameters[1:], args[1:]
    text = str(error)
    if text.startswith(_ASARRAY):
        # `describe` is what reads an array alone: its own error has no better text.
        name = None if where == "core.describe" else _unreadable(parameters, args, kwargs, text)
        if name is None:
            return None
        return type(error)(f"[{where}] {name}: {text.removeprefix(_ASARRAY)}")
    return DTypeError(f"[{where}] {_complaint(parameters, args, kwargs)}")


def _complaint(parameters: list[_Parameter], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    names = [parameter.name for parameter in parameters]
    by_position = names.index("*") if "*" in names else len(names)
    if len(args) > by_position:
        return f"positional arguments must be at most {by_position}, got {len(args)}"
    given = dict(zip(names, args, strict=False))
    for key, value in kwargs.items():
        if key not in names:
            allowed = ", ".join(name for name in names if name != "*")
            return f"arguments must be among {allowed}, got {key}"
        if key in given:
            return f"{key} must be given once, got it by position and by name"
        given[key] = value
    for name, kinds, default in parameters:
        if name != "*" and name not in given and not default:
            return f"{name} must be given, got nothing"
        if name in given and not any(_fits(given[name], kind) for kind in kinds):
            return f"{name} must be {_wanted(kinds)}, got {_shown(given[name])}"
    for name, value in given.items():
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            return f"{name} must be a smaller integer, got {value}"
    # What only the conversion itself could tell.
    taken = [parameter for parameter in parameters if parameter.name in given]
    wanted = ", ".join(f"{name} {_wanted(kinds)}" for name, kinds, _ in taken)
    got = ", ".join(f"{name}={_shown(given[name])}" for name, _, _ in taken)
    return f"arguments must be {wanted}, got {got}"


def _unreadable(
    parameters: list[_Parameter], args: Sequence[Any], kwargs: Mapping[str, Any], text: str
) -> str | None:
    """The name of the array that raises the error of `text` when it is read alone."""
    given = {**dict(zip((name for name, _, _ in parameters), args, strict=False)), **kwargs}
    for name, kinds, _ in parameters:
        if name in given and "ArrayLike" in kinds:
            try:
                describe(given[name])
            except Exception as error:
                if str(error) == text:
                    return name
    return None


def _parameters(signature: str) -> list[_Parameter]:
    """Those of "(name: kind | kind = default, ...) -> kind"; "*" stands for itself."""
    parts = []
    depth, quote, start = 0, "", 1
    for at, letter in enumerate(signature):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(signature[start:at].strip())
            start = at + 1
        if depth == 0:
            break
    found = []
    for part in filter(None, parts):
        declared, _, default = part.partition(" = ")
        name, _, annotation = declared.partition(": ")
        found.append(_Parameter(name, annotation.split(" | "), default))
    return found


def _fits(value: Any, kind: str) -> bool:
    """Whether a value may be of a kind; True where only the conversion can tell."""
    if kind == "None":
        return value is None
    if kind in ("typing.SupportsFloat", "float"):
        return not isinstance(value, str | bytes) and _works(float, value)
    if kind in ("typing.SupportsInt", "typing.SupportsIndex", "int"):
        return _works(operator.index, value)
    if kind in ("str", "bool"):
        return isinstance(value, str | bytes if kind == "str" else bool | int)
    if kind.startswith("collections.abc.Callable"):
        return callable(value)
    if kind == "ArrayLike":
        return value is not None and not isinstance(value, str | bytes | dict | set)
    if kind.startswith("moptcore."):
        module, _, name = kind.rpartition(".")
        owner = getattr(sys.modules.get(module), name, None)
        return not isinstance(owner, type) or isinstance(value, owner)
    return True


def _works(convert: Callable[[Any], Any], value: Any) -> bool:
    try:
        convert(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def _wanted(kinds: list[str]) -> str:
    words = []
    for kind in kinds:
        word = re.sub(r"^moptcore\.\w+\.", "", _WORDS.get(kind.partition("[")[0], kind))
        if kind != "typing.SupportsIndex":
            words.append(word)
    return " or ".join(words)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)[:80]
    return type(value).__name__
