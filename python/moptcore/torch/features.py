# SPDX-License-Identifier: Apache-2.0
"""What layers inside a model give, without changing the model."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch

from moptcore import DTypeError, Error
from moptcore.torch.arguments import unwrapped

__all__ = ["FeatureExtractor"]


class FeatureExtractor:
    """Records what modules inside `model` give, by their paths, until it is closed.

        with FeatureExtractor(teacher, ["layer3", "fc"]) as seen:
            teacher(x)
            hint = seen["layer3"]

    paths: names as in `model.named_modules()`; "" is the model itself. Of a module that runs more
    than once in a forward pass the last output counts. Outputs are the tensors themselves, with
    their graph: `clear` lets go of them. Copies and pickles of the model made meanwhile record
    nothing.

    Raises Error for a path that the model does not have.
    """

    def __init__(self, model: torch.nn.Module, paths: Iterable[str]) -> None:
        where = "torch.FeatureExtractor"
        if not isinstance(model, torch.nn.Module):
            raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
        if isinstance(paths, str):
            raise DTypeError(f"[{where}] paths must be a list of names, got {paths!r}")
        modules = dict(unwrapped(model).named_modules(remove_duplicate=False))
        self.paths = tuple(paths)
        for path in self.paths:
            if path not in modules:
                names = ", ".join(repr(name) for name in modules if name)
                raise Error(f"[{where}] paths must be modules of the model ({names}), got {path!r}")
        self._features: dict[str, Any] = {}
        self._hooks = [
            modules[path].register_forward_hook(_Record(self._features, path, modules[path]))
            for path in dict.fromkeys(self.paths)
        ]

    @property
    def features(self) -> dict[str, Any]:
        """The recorded outputs by path, of the modules that have run."""
        return dict(self._features)

    def __getitem__(self, path: str) -> Any:
        if path not in self._features:
            known = "has not run yet" if path in self.paths else f"is none of {self.paths}"
            raise Error(
                f"[torch.FeatureExtractor] path must be recorded, got {path!r}, which {known}"
            )
        return self._features[path]

    def clear(self) -> None:
        """Forgets the outputs; the next forward pass records anew."""
        self._features.clear()

    def close(self) -> None:
        """Takes the hooks off the model. Outputs stay; closing twice does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Record:
    """A hook that serves one module only: a copy of the model must not write here."""

    def __init__(self, features: dict[str, Any], path: str, module: torch.nn.Module) -> None:
        self._features, self._path, self._module = features, path, module

    def __call__(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        if module is self._module:
            self._features[self._path] = output

    def __deepcopy__(self, _: Any) -> _Silent:
        return _Silent()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Silent, ())


class _Silent:
    def __call__(self, *_: Any) -> None:
        return None
