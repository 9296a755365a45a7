# SPDX-License-Identifier: Apache-2.0
"""torch.nn.utils.prune without its damage: `import moptcore.torch.prune as prune`.

The functions and classes of torch.nn.utils.prune with their signatures, errors, masks and
compounding. Where torch picks arbitrarily among equal scores, the lowest index is kept.

What differs is what becomes of the module. Its parameter stays a leaf Parameter under its own
name and holds the pruned weights; no parameter or buffer is added, so state_dict keeps its keys
and sizes, deepcopy and optimizers work as before, and tied parameters stay tied. Beside it,
`<name>_mask` is a plain attribute with the mask, and `<name>_orig` another name of the parameter
itself: the values of pruned weights are gone, as they are in torch after `remove`.

Pruned weights stay zero without a call: their gradients are zero, every optimizer's step is
followed by zeros, and so is `load_state_dict`; the forward pass, except compiled, writes them
anew. The mask may be replaced (`module.weight_mask = mask`) and holds from the next forward pass
on. It travels with copies and pickles of the module and, as bits, in the metadata of its
`state_dict()`. A parameter that is pruned, `identity(module, name)` suffices, takes the mask over
in `load_state_dict`, of checkpoints in torch's layout as well; a fresh module knows nothing of
masks: it loads the zeros, but training may change them.

`compat="torch"`, per call or for all calls by `set_compat("torch")`, gives torch's own layout:
`<name>_orig` a parameter, `<name>_mask` a buffer, `<name>` their product, no leaf.
"""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.utils.prune as peer
from torch.nn.utils import parameters_to_vector

from moptcore import DTypeError, Error, NonFiniteError, _core
from moptcore.torch import masking
from moptcore.torch.guard import Guard, masked

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "get_compat",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
    "set_compat",
]

Amount = int | float
Norm = int | float | str
Compat = Literal["setting", "torch"] | None
"""None is our layout, "torch" torch's, "setting" what `set_compat` says."""

_METADATA = "moptcore.prune"
_setting: str | None = None


def set_compat(compat: str | None) -> str | None:
    """The layout of modules that are pruned from now on: None or "torch". Returns the old one.

    A parameter that is pruned already keeps its layout. Raises Error for any other value.
    """
    global _setting
    previous, _setting = _setting, _layout("set_compat", compat)
    return previous


def get_compat() -> str | None:
    """What `set_compat` was last told; None at first."""
    return _setting


class BasePruningMethod(peer.BasePruningMethod):
    """One way to choose a mask; to write your own, give it PRUNING_TYPE and `compute_mask`.

    `apply` makes an instance, computes the mask and puts the instance on the module as a forward
    pre-hook. PRUNING_TYPE is "unstructured" (what is pruned again are the weights that are left),
    "structured" (the channels along the attribute `dim` that are left) or "global" (everything).
    """

    _tensor_name: str
    _guard: Guard | None = None

    def __call__(self, module: torch.nn.Module, inputs: Any) -> None:
        """Before each forward pass: nothing but zeros where the mask is zero."""
        name = self._tensor_name
        if _is_torch_layout(module, name):
            setattr(module, name, self.apply_mask(module))
        elif self._guard is not None:
            _refresh(module, name, self._guard)

    @abstractmethod
    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """The new mask of `t`, given the mask of earlier methods (ones before the first)."""

    def apply_mask(self, module: torch.nn.Module) -> torch.Tensor:
        """The parameter with zeros where its mask is zero; differentiable."""
        if getattr(self, "_tensor_name", None) is None:
            raise AssertionError(
                f"[torch.prune.apply_mask] module must be pruned by this method, got {module}"
            )
        mask = getattr(module, self._tensor_name + "_mask")
        original = getattr(module, self._tensor_name + "_orig")
        if _is_torch_layout(module, self._tensor_name):
            product: torch.Tensor = mask.to(dtype=original.dtype) * original
            return product
        return masked(original, mask)

    @classmethod
    def apply(
        cls,
        module: torch.nn.Module,
        name: str,
        *args: Any,
        importance_scores: torch.Tensor | None = None,
        compat: Compat = "setting",
        **kwargs: Any,
    ) -> Any:
        """Prunes parameter `name` of `module`; returns the method, or the container of all so far.

        `args` and `kwargs` make the method; `importance_scores`, in the parameter's shape, are
        ranked instead of the parameter. Nothing changes when anything raises.
        """
        layout = _layout(f"{cls.__name__}.apply", compat)
        found = _pruning_hooks(module, name)
        if len(found) > 1:
            raise AssertionError(
                f"[torch.prune.{cls.__name__}.apply] {name} of {module} must have at most one "
                f"pruning hook (a PruningContainer for several methods), got {len(found)}"
            )
        method = cls(*args, **kwargs)
        method._tensor_name = name
        tensor = getattr(module, name)
        scores = _scores(f"{cls.__name__}.apply", tensor, importance_scores, f"{name} of {module}")
        if not found:
            if not isinstance(tensor, torch.nn.Parameter):
                raise DTypeError(
                    f"[torch.prune.{cls.__name__}.apply] {name} must be a Parameter, got "
                    f"{type(tensor).__name__}"
                )
            if name not in module._parameters:
                raise Error(
                    f"[torch.prune.{cls.__name__}.apply] {name} must be a parameter's own name, "
                    f"got another one of {name.removesuffix('_orig')}; compat='torch' has a "
                    "parameter of each name"
                )
            mask = method.compute_mask(scores, default_mask=torch.ones_like(tensor))
            if layout == "torch":
                _install_as_torch(module, name, method, mask)
            else:
                _check_mask(cls.__name__, mask)
                _install(module, name, method, mask)
            module.register_forward_pre_hook(method)
            return method
        old = next(iter(found.values()))
        before = getattr(module, name + "_mask").detach()
        before = before.clone(memory_format=torch.contiguous_format)
        mask = _combined(method, scores, before)
        as_torch = _is_torch_layout(module, name)
        if not as_torch:
            _check_mask(cls.__name__, mask)
        container: Any = old if isinstance(old, peer.PruningContainer) else PruningContainer(old)
        container.add_pruning_method(method)
        if as_torch:
            module.register_buffer(name + "_mask", mask)
            setattr(module, name, container.apply_mask(module))
        else:
            container._guard = old.__dict__.pop("_guard")
            _install(module, name, container, mask)
        for key in found:
            del module._forward_pre_hooks[key]
        module.register_forward_pre_hook(container)
        return container

    def prune(
        self,
        t: torch.Tensor,
        default_mask: torch.Tensor | None = None,
        importance_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`t` times its mask: the method on a tensor that belongs to no module."""
        scores = _scores(f"{type(self).__name__}.prune", t, importance_scores, "tensor t")
        default_mask = torch.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default_mask)

    def _moptcore_strip_from_(self, module: torch.nn.Module) -> None:
        remove(module, self._tensor_name)

    def remove(self, module: torch.nn.Module) -> None:
        """Makes the pruning permanent; the hook is the caller's business, as in torch."""
        if getattr(self, "_tensor_name", None) is None:
            raise AssertionError(
                f"[torch.prune.remove] module must be pruned by this method, got {module}"
            )
        name = self._tensor_name
        if _is_torch_layout(module, name):
            weight = self.apply_mask(module)
            if hasattr(module, name):
                delattr(module, name)
            original = module._parameters.pop(name + "_orig")
            assert original is not None
            original.data = weight.data
            del module._buffers[name + "_mask"]
            setattr(module, name, original)
        elif self._guard is not None:
            _refresh(module, name, self._guard)
            self._guard.stop()
            self._guard = None
            for suffix in ("_mask", "_orig"):
                module.__dict__.pop(name + suffix, None)
            _forget_states(module, name)


class PruningContainer(BasePruningMethod):
    """The methods that pruned one parameter one after the other; the last one prunes further."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: Any) -> None:
        """Appends a method for the same parameter; None is allowed and does nothing."""
        if method is not None and not isinstance(method, peer.BasePruningMethod):
            raise DTypeError(
                "[torch.prune.PruningContainer] method must be a BasePruningMethod, got "
                f"{type(method)}"
            )
        if method is not None and self._tensor_name != method._tensor_name:
            raise Error(
                "[torch.prune.PruningContainer] method must act on the parameter "
                f"'{self._tensor_name}' of {self}, got '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pruning_methods)

    def __getitem__(self, index: Any) -> Any:
        return self._pruning_methods[index]

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` where the last method keeps, within what `default_mask` keeps."""
        return _combined(self._pruning_methods[-1], t, default_mask)


class Identity(BasePruningMethod):
    """Prunes nothing, but leaves a mask: of ones, or the one that is there."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` itself."""
        return default_mask

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: torch.nn.Module, name: str, compat: Compat = "setting"
    ) -> Any:
        """See `identity`."""
        return super().apply(module, name, compat=compat)


class RandomUnstructured(BasePruningMethod):
    """Prunes `amount` weights drawn at random by torch's generator."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Amount) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` without the weights that drew the largest numbers."""
        zeros = _amount_of(self.amount, t.nelement())
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        if zeros:
            mask.view(-1)[_smallest(-torch.rand_like(t).view(-1), zeros)] = 0
        return mask

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: torch.nn.Module, name: str, amount: Amount, compat: Compat = "setting"
    ) -> Any:
        """See `random_unstructured`."""
        return super().apply(module, name, amount=amount, compat=compat)


class L1Unstructured(BasePruningMethod):
    """Prunes the `amount` weights of smallest magnitude; of equal ones the first are kept."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Amount) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` without the smallest; NaN counts as larger than all, as in torch."""
        zeros = _amount_of(self.amount, t.nelement())
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        if zeros:
            mask.view(-1)[_smallest_magnitudes(t.detach().reshape(-1), zeros)] = 0
        return mask

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: torch.nn.Module,
        name: str,
        amount: Amount,
        importance_scores: torch.Tensor | None = None,
        compat: Compat = "setting",
    ) -> Any:
        """See `l1_unstructured`."""
        return super().apply(
            module, name, amount=amount, importance_scores=importance_scores, compat=compat
        )


class RandomStructured(BasePruningMethod):
    """Prunes `amount` channels along `dim` drawn at random by torch's generator."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Amount, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.dim = dim

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` without the channels that drew the smallest numbers."""
        channels, zeros = _channels(t, self.dim, self.amount)
        if zeros == 0:
            return default_mask
        return _without(_smallest(torch.rand(channels), zeros), t, self.dim, default_mask)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: torch.nn.Module,
        name: str,
        amount: Amount,
        dim: int = -1,
        compat: Compat = "setting",
    ) -> Any:
        """See `random_structured`."""
        return super().apply(module, name, amount=amount, dim=dim, compat=compat)


class LnStructured(BasePruningMethod):
    """Prunes the `amount` channels along `dim` of smallest L`n` norm; `n` as in torch.norm."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Amount, n: Norm, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """`default_mask` without the smallest channels; of equal ones the first are kept."""
        # torch takes True for one channel in this method alone.
        _, zeros = _channels(t, self.dim, 1 if self.amount is True else self.amount)
        norms = _compute_norm(t.detach(), self.n, self.dim)
        if zeros == 0:
            return default_mask
        return _without(_smallest(norms, zeros), t, self.dim, default_mask)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: torch.nn.Module,
        name: str,
        amount: Amount,
        n: Norm,
        dim: int,
        importance_scores: torch.Tensor | None = None,
        compat: Compat = "setting",
    ) -> Any:
        """See `ln_structured`."""
        return super().apply(
            module,
            name,
            amount=amount,
            n=n,
            dim=dim,
            importance_scores=importance_scores,
            compat=compat,
        )


class CustomFromMask(BasePruningMethod):
    """Prunes where `mask` is zero."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """Both masks together."""
        if default_mask.shape != self.mask.shape:
            raise AssertionError(
                f"[torch.prune.CustomFromMask] mask must have the shape {default_mask.shape} of "
                f"the parameter, got {self.mask.shape}"
            )
        return default_mask * self.mask.to(dtype=default_mask.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: torch.nn.Module, name: str, mask: torch.Tensor, compat: Compat = "setting"
    ) -> Any:
        """See `custom_from_mask`."""
        return super().apply(module, name, mask=mask, compat=compat)


def identity(module: torch.nn.Module, name: str, *, compat: Compat = "setting") -> torch.nn.Module:
    """Gives parameter `name` a mask without pruning anything; returns the module."""
    Identity.apply(module, name, compat=compat)
    return module


def random_unstructured(
    module: torch.nn.Module, name: str, amount: Amount, *, compat: Compat = "setting"
) -> torch.nn.Module:
    """Prunes `amount` weights of parameter `name` at random; returns the module.

    `amount` is a count (int) or a share in [0, 1] (float) of the weights that are not yet pruned,
    rounded half to even. The draw is that of torch: the same seed prunes the same weights.
    """
    RandomUnstructured.apply(module, name, amount, compat=compat)
    return module


def l1_unstructured(
    module: torch.nn.Module,
    name: str,
    amount: Amount,
    importance_scores: torch.Tensor | None = None,
    *,
    compat: Compat = "setting",
) -> torch.nn.Module:
    """Prunes the `amount` weights of smallest magnitude (or score); returns the module.

    `amount` is a count (int) or a share in [0, 1] (float) of the weights that are not yet pruned:
    50 % twice leaves 25 %. Raises Error for an amount outside its range, TypeError for any other
    type, AssertionError for scores of another shape.
    """
    L1Unstructured.apply(
        module, name, amount=amount, importance_scores=importance_scores, compat=compat
    )
    return module


def random_structured(
    module: torch.nn.Module, name: str, amount: Amount, dim: int, *, compat: Compat = "setting"
) -> torch.nn.Module:
    """Prunes `amount` channels along `dim` at random; returns the module.

    The draw is that of torch. Raises Error for a parameter of fewer than two dimensions,
    IndexError for a `dim` that it has not.
    """
    RandomStructured.apply(module, name, amount, dim, compat=compat)
    return module


def ln_structured(
    module: torch.nn.Module,
    name: str,
    amount: Amount,
    n: Norm,
    dim: int,
    importance_scores: torch.Tensor | None = None,
    *,
    compat: Compat = "setting",
) -> torch.nn.Module:
    """Prunes the `amount` channels along `dim` of smallest L`n` norm; returns the module.

    `amount` counts channels that are not yet pruned. `n` is what torch.norm takes. Raises Error
    for a parameter of fewer than two dimensions, IndexError for a `dim` that it has not.
    """
    LnStructured.apply(
        module, name, amount, n, dim, importance_scores=importance_scores, compat=compat
    )
    return module


def global_unstructured(
    parameters: Iterable[tuple[torch.nn.Module, str]],
    pruning_method: Any,
    importance_scores: dict[tuple[torch.nn.Module, str], torch.Tensor] | None = None,
    *,
    compat: Compat = "setting",
    **kwargs: Any,
) -> None:
    """Prunes several parameters, (module, name) each, as if they were one tensor.

    `pruning_method` is a class with PRUNING_TYPE "unstructured", made with `kwargs` (`amount=`);
    `importance_scores` maps some of the pairs to scores of their shapes. Raises TypeError for
    another type of method and for parameters on several devices; nothing has changed then.
    """
    where = "torch.prune.global_unstructured"
    if not isinstance(parameters, Iterable):
        raise DTypeError(f"[{where}] parameters must be an Iterable, got {type(parameters)}")
    pairs = list(parameters)
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        raise DTypeError(f"[{where}] importance_scores must be a dict, got {type(scores)}")
    if not pairs:
        raise Error(f"[{where}] parameters must hold at least one pair, got none")
    tensors = [getattr(module, name) for module, name in pairs]
    ranked = parameters_to_vector(
        scores.get(pair, tensor) for pair, tensor in zip(pairs, tensors, strict=True)
    )
    before = parameters_to_vector(
        getattr(module, name + "_mask", torch.ones_like(tensor))
        for (module, name), tensor in zip(pairs, tensors, strict=True)
    )
    method = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise DTypeError(
            f"[{where}] pruning_method must have PRUNING_TYPE 'unstructured', got "
            f"{pruning_method} with {method.PRUNING_TYPE!r}"
        )
    method._tensor_name = "temp"
    mask = _combined(method, ranked, before)
    parts = torch.split(mask, [tensor.numel() for tensor in tensors])
    for (module, name), tensor, part in zip(pairs, tensors, parts, strict=True):
        custom_from_mask(module, name, mask=part.view_as(tensor), compat=compat)


def custom_from_mask(
    module: torch.nn.Module, name: str, mask: torch.Tensor, *, compat: Compat = "setting"
) -> torch.nn.Module:
    """Prunes parameter `name` where `mask`, in its shape, is zero; returns the module."""
    CustomFromMask.apply(module, name, mask, compat=compat)
    return module


def remove(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """Makes the pruning of parameter `name` permanent and forgets its mask; returns the module.

    The weights are as sparse as before, but training may change them again. Raises Error when
    the parameter is not pruned.
    """
    for key, hook in _pruning_hooks(module, name).items():
        hook.remove(module)
        del module._forward_pre_hooks[key]
        return module
    raise Error(f"[torch.prune.remove] name must be a pruned parameter of {module}, got '{name}'")


def is_pruned(module: torch.nn.Module) -> bool:
    """Whether a parameter of the module, or of a module in it, is pruned."""
    return any(
        isinstance(hook, peer.BasePruningMethod)
        for each in module.modules()
        for hook in each._forward_pre_hooks.values()
    )


def _layout(where: str, compat: str | None) -> str | None:
    if compat not in (None, "torch", "setting"):
        raise Error(f"[torch.prune.{where}] compat must be None or 'torch', got {compat!r}")
    return _setting if compat == "setting" else compat


def _is_torch_layout(module: torch.nn.Module, name: str) -> bool:
    return name + "_orig" in module._parameters and name not in module._parameters


def _pruning_hooks(module: torch.nn.Module, name: str) -> dict[int, Any]:
    return {
        key: hook
        for key, hook in module._forward_pre_hooks.items()
        if isinstance(hook, peer.BasePruningMethod) and hook._tensor_name == name
    }


def _scores(
    where: str, tensor: torch.Tensor, scores: torch.Tensor | None, what: str
) -> torch.Tensor:
    if scores is None:
        return tensor
    if scores.shape != tensor.shape:
        raise AssertionError(
            f"[torch.prune.{where}] importance_scores must have the same shape as {what}, "
            f"{tensor.shape}, got {scores.shape}"
        )
    return scores


def _check_mask(where: str, mask: torch.Tensor) -> None:
    if not mask.is_meta and not bool(((mask == 0) | (mask == 1)).all()):
        raise Error(
            f"[torch.prune.{where}.apply] mask must hold zeros and ones only, got others; "
            "compat='torch' multiplies by any number"
        )


def _install(
    module: torch.nn.Module, name: str, method: BasePruningMethod, mask: torch.Tensor
) -> None:
    """Our layout: the parameter holds the pruned weights, all else is plain attributes."""
    parameter = module._parameters[name]
    assert parameter is not None
    mask = mask.detach()
    if method._guard is None:
        method._guard = Guard(parameter, mask)
        _remember_states(module, name)
    else:
        method._guard.follow(parameter, mask)
    module.__dict__[name + "_mask"] = mask
    module.__dict__[name + "_orig"] = parameter
    method._guard.prune()


def _install_as_torch(
    module: torch.nn.Module, name: str, method: BasePruningMethod, mask: torch.Tensor
) -> None:
    original = module._parameters[name]
    module.register_parameter(name + "_orig", original)
    del module._parameters[name]
    module.register_buffer(name + "_mask", mask)
    setattr(module, name, method.apply_mask(module))


def _refresh(module: torch.nn.Module, name: str, guard: Guard) -> None:
    """Zeros in whatever the module is about to use, and the guard on it if it is a parameter."""
    mask = module.__dict__.get(name + "_mask", guard.mask)
    if not isinstance(mask, torch.Tensor):
        raise DTypeError(
            f"[torch.prune] {name}_mask must be a Tensor (remove(module, {name!r}) takes it away), "
            f"got {type(mask).__name__}"
        )
    weight = module._parameters.get(name)
    if module._parameters.get(name + "_orig") is not None:
        # Somebody gave the parameter's other name another parameter.
        weight = module._parameters[name] = module._parameters.pop(name + "_orig")
    if weight is None:
        # A replica of a data-parallel module; other modules without it were converted.
        weight = module.__dict__.get(name)
        if isinstance(weight, torch.Tensor) and getattr(module, "_is_replica", False):
            module.__dict__[name] = masked(weight, mask)
        return
    if not isinstance(weight, torch.nn.Parameter):
        # torch.func.functional_call put it here, and gives what it finds here later to the caller:
        # so the masked one stands before it, for this call only.
        module.__dict__[name] = masked(weight, mask)
        module.register_forward_hook(_Uncover(name), always_call=True)
        return
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if torch.compiler.is_compiling() or tracing:
        return
    if mask.device != weight.device or (
        mask.dtype != weight.dtype and mask.is_floating_point() and weight.is_floating_point()
    ):
        dtype = weight.dtype if mask.is_floating_point() else mask.dtype
        mask = mask.to(weight.device, dtype)
    module.__dict__[name + "_mask"] = mask
    module.__dict__[name + "_orig"] = weight
    guard.follow(weight, mask)
    guard.restore()


class _Uncover:
    """Takes the attribute away that stands before a parameter, and itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        module.__dict__.pop(self.name, None)
        for key, hook in list(module._forward_hooks.items()):
            if hook is self:
                del module._forward_hooks[key]
                module._forward_hooks_always_called.pop(key, None)


class _StateHook:
    """Masks in the metadata of state dicts: their keys and tensors stay those of the module."""

    def __init__(self, name: str, event: str) -> None:
        self.name = name
        self.event = event

    def __call__(self, module: torch.nn.Module, *args: Any) -> None:
        hooks = _pruning_hooks(module, self.name)
        if not hooks or _is_torch_layout(module, self.name):
            return
        if self.event == "save":
            self._save(module, *args)
        elif self.event == "load":
            self._load(module, *args)
        else:
            for hook in hooks.values():
                hook(module, ())

    def _save(
        self, module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
    ) -> None:
        mask = module.__dict__[self.name + "_mask"]
        metadata.setdefault(_METADATA, {})[self.name] = masking.pack((mask != 0).contiguous())

    def _load(
        self,
        module: torch.nn.Module,
        state: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        mask = module.__dict__[self.name + "_mask"]
        key = prefix + self.name
        if key not in state and {key + "_orig", key + "_mask"} <= set(state):
            new = state.pop(key + "_mask")
            state[key] = state.pop(key + "_orig")
        else:
            bits = metadata.get(_METADATA, {}).get(self.name)
            if bits is None:
                return
            if bits.numel() != -(-mask.numel() // 8):
                errors.append(
                    f"[torch.prune] the mask of {key} must have {mask.numel()} bits, got "
                    f"{8 * bits.numel()}"
                )
                return
            new = masking.unpack(bits, mask.shape)
        if new.shape != mask.shape:
            errors.append(
                f"[torch.prune] the mask of {key} must have the shape {tuple(mask.shape)}, got "
                f"{tuple(new.shape)}"
            )
            return
        module.__dict__[self.name + "_mask"] = new.to(mask.device, mask.dtype, copy=True)


def _remember_states(module: torch.nn.Module, name: str) -> None:
    module.register_state_dict_post_hook(_StateHook(name, "save"))
    module.register_load_state_dict_pre_hook(_StateHook(name, "load"))
    module.register_load_state_dict_post_hook(_StateHook(name, "loaded"))


def _forget_states(module: torch.nn.Module, name: str) -> None:
    for hooks in (
        module._state_dict_hooks,
        module._load_state_dict_pre_hooks,
        module._load_state_dict_post_hooks,
    ):
        for key, hook in list(hooks.items()):
            hook = getattr(hook, "hook", hook)
            if isinstance(hook, _StateHook) and hook.name == name:
                del hooks[key]


def _combined(method: Any, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask after `method` has pruned what `mask` left of `t`."""
    if method.PRUNING_TYPE == "unstructured":
        left: Any = mask == 1
    elif method.PRUNING_TYPE == "structured":
        if not hasattr(method, "dim"):
            raise AttributeError(
                f"[torch.prune.PruningContainer] method must have an attribute dim to be of "
                f"PRUNING_TYPE 'structured', got {method}"
            )
        dim = method.dim + t.dim() if method.dim < 0 else method.dim
        if dim < 0:
            raise IndexError(
                f"[torch.prune.PruningContainer] dim must be an axis of {t.shape}, got {method.dim}"
            )
        others = [axis for axis in range(t.dim()) if axis != dim]
        left = tuple(
            mask.sum(dim=others) != 0 if axis == dim else slice(None) for axis in range(t.dim())
        )
    elif method.PRUNING_TYPE == "global":
        left = (slice(None),) * t.dim()
    else:
        raise Error(
            "[torch.prune.PruningContainer] PRUNING_TYPE must be 'unstructured', 'structured' or "
            f"'global', got {method.PRUNING_TYPE!r}"
        )
    found = method.compute_mask(t[left], default_mask=mask[left])
    combined = mask.to(dtype=t.dtype, copy=True)
    combined[left] = found.to(dtype=t.dtype)
    return combined


def _smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """bool: the `count` smallest of a vector, NaN above all; of equal ones the last."""
    if count >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    threshold = wide.kthvalue(count).values
    missing = wide.isnan()
    below = torch.where(threshold.isnan(), ~missing, wide < threshold)
    tied = torch.where(threshold.isnan(), missing, wide == threshold)
    # Of the tied, all but the first ones that fit.
    spared = tied.sum() - (count - below.sum())
    return below | (tied & (tied.cumsum(0) > spared))


def _smallest_magnitudes(t: torch.Tensor, count: int) -> torch.Tensor:
    if masking.on_core(t) and t.dtype in masking.FLOATING and count < t.numel():
        try:
            kept = _core.prune.magnitude_mask(t, count / t.numel())
        except NonFiniteError:
            return _smallest(t.abs(), count)
        dropped: torch.Tensor = ~kept
        return dropped
    return _smallest(t.abs(), count)


def _amount_of(amount: Amount, size: int) -> int:
    if amount is True:
        # Nobody means one weight by it; False prunes nothing, as in torch.
        raise DTypeError("[torch.prune] amount must be an int or a float to prune by, got True")
    zeros = _compute_nparams_toprune(amount, size)
    _validate_pruning_amount(zeros, size)
    return zeros


def _channels(t: torch.Tensor, dim: int, amount: Amount) -> tuple[int, int]:
    """How many channels there are and how many of them go."""
    _validate_structured_pruning(t)
    _validate_pruning_dim(t, dim)
    return t.shape[dim], _amount_of(amount, t.shape[dim])


def _without(
    dropped: torch.Tensor, t: torch.Tensor, dim: int, default_mask: torch.Tensor
) -> torch.Tensor:
    """`default_mask` in the dtype of `t`, zero on the channels that are dropped."""
    shape = [1] * t.dim()
    shape[dim] = -1
    mask = torch.ones_like(t, requires_grad=False)
    mask.masked_fill_(dropped.to(t.device).reshape(shape), 0)
    return mask.mul_(default_mask.to(dtype=mask.dtype))


def _validate_pruning_amount_init(amount: Amount) -> None:
    """Raises TypeError unless `amount` is a number, Error unless a count or a share in [0, 1]."""
    rule = "amount must be an int >= 0 or a float in [0, 1]"
    if not isinstance(amount, numbers.Real):
        raise DTypeError(f"[torch.prune] {rule}, got {amount}")
    if amount < 0 or not (isinstance(amount, numbers.Integral) or amount <= 1.0):
        raise Error(f"[torch.prune] {rule}, got {amount}")


def _validate_pruning_amount(amount: Amount, tensor_size: int) -> None:
    """Raises Error for a count above the size."""
    if isinstance(amount, numbers.Integral) and amount > tensor_size:
        raise Error(
            f"[torch.prune] amount must be at most the number of parameters to prune, "
            f"{tensor_size}, got {amount}"
        )


def _validate_structured_pruning(t: torch.Tensor) -> None:
    """Raises Error unless `t` has two or more dimensions."""
    if t.dim() < 2:
        raise Error(
            f"[torch.prune] t must have 2 or more dimensions for structured pruning, got {t.shape}"
        )


def _validate_pruning_dim(t: torch.Tensor, dim: int) -> None:
    """Raises IndexError for a `dim` that `t` has not."""
    if dim >= t.dim():
        raise IndexError(f"[torch.prune] dim must be an index of {t.shape}, got {dim}")


def _compute_nparams_toprune(amount: Amount, tensor_size: int) -> int:
    """A count as it is, a share of `tensor_size` rounded half to even."""
    if isinstance(amount, numbers.Integral):
        return int(amount)
    return round(amount * tensor_size)


def _compute_norm(t: torch.Tensor, n: Norm, dim: int) -> torch.Tensor:
    """The L`n` norm of each slice of `t` along `dim`, a vector."""
    kept = range(t.dim())[dim]
    others: Sequence[int] = [axis for axis in range(t.dim()) if axis != kept]
    norm: torch.Tensor = torch.norm(t, p=n, dim=others)
    return norm
