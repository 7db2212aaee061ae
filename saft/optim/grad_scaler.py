"""What torch's gradient scaler and a second pass must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState, _refresh_per_optimizer_state
from torch.optim import Optimizer

from saft.errors import UserError
from saft.optim.backward_count import BackwardCount

__all__ = [
    "gradient_scale",
    "has_unscaled",
    "refuse_unscaled",
    "require_unscaled",
    "spread_non_finite",
    "step_scaled",
    "unscale_again",
]


def has_unscaled(scaler: GradScaler | None, optimizers: Sequence[Any]) -> Any | None:
    """Return the one of `optimizers` whose gradients are unscaled since the last update, or None.

    Args:
        scaler: None, or one that is disabled, has unscaled nothing.
        optimizers: what the scaler may know the optimizer as.
    """
    if scaler is None or not scaler.is_enabled():
        return None
    for optimizer in optimizers:
        state = scaler._per_optimizer_states.get(id(optimizer))
        if state is not None and state["stage"] is OptState.UNSCALED:
            return optimizer
    return None


def refuse_unscaled(scaler: GradScaler | None, optimizers: Sequence[Any]) -> None:
    """Raise if a closure has unscaled its gradients, which the step with a scaler will do.

    Args:
        scaler, optimizers: as of `has_unscaled`.

    Raises:
        UserError: it has; they would be divided by the scale twice.
    """
    if has_unscaled(scaler, optimizers) is not None:
        raise UserError(
            "step(closure, scaler=scaler): the closure calls scaler.unscale_, and the step would divide by"
            " the scale once more; to clip, use first_pass() and perturbed(scaler), and then"
            " scaler.unscale_(optimizer)"
        )


def gradient_scale(scaler: GradScaler | None, unscaled: bool) -> Tensor | float:
    """Return the factor that the gradients carry; reading it does not wait for the device.

    Args:
        scaler: None, or one that is disabled, means a factor of 1.
        unscaled: whether the gradients were unscaled already.

    Returns:
        The factor, a number or a 0-dim tensor.
    """
    if scaler is None or unscaled or not scaler.is_enabled():
        return 1.0
    scale = scaler._get_scale_async()
    return 1.0 if scale is None else scale


def unscale_again(scaler: GradScaler, optimizer: Any) -> None:
    """Unscale the replayed gradients of an optimizer whose first gradients were unscaled already.

    torch refuses a second `unscale_` before `update()`, and would then step with scaled gradients.

    Args:
        scaler: it has unscaled the gradients of `optimizer` since its last update.
        optimizer: as the scaler knows it.
    """
    scaler._per_optimizer_states[id(optimizer)] = _refresh_per_optimizer_state()
    scaler.unscale_(optimizer)


def require_unscaled(backwards: BackwardCount) -> None:
    """Check that a scaler which has unscaled gradients did so to the replayed ones.

    Args:
        backwards: notes the descent gradient since the end of the replay.

    Raises:
        UserError: it unscaled the first gradients, and `perturbed` was not given the scaler.
    """
    if backwards.changed_before is not None and (backwards.changed_before or backwards.is_unchanged):
        raise UserError(
            "scaler.unscale_ came before perturbed(), so the replayed gradients still carry the loss scale:"
            " write `with optimizer.perturbed(scaler):`, or unscale after it"
        )


def step_scaled(base: Optimizer, grad_scale: Tensor | None, found_inf: Tensor) -> Any:
    """Take the step of a base optimizer, as a gradient scaler would, unless inf or nan was found.

    Args:
        base: if it is fused, it unscales and skips by itself, without waiting for the device.
        grad_scale: what the gradients must be divided by; None if they have been.
        found_inf: 0-dim, not 0 if a gradient has inf or nan.
    """
    if getattr(base, "_step_supports_amp_scaling", False):
        base.grad_scale, base.found_inf = grad_scale, found_inf  # type: ignore[attr-defined]
        try:
            return base.step()
        finally:
            del base.grad_scale, base.found_inf  # type: ignore[attr-defined]
    if found_inf.item():
        return None
    if grad_scale is not None:
        inverse = 1 / grad_scale.item()
        for group in base.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _values(parameter.grad).mul_(inverse)
    return base.step()


def spread_non_finite(check: Tensor, parameters: Sequence[Tensor]) -> None:
    """Make one gradient nan if `check` is not finite, so that a guard of the step sees it.

    Args:
        check: 0-dim; what `Perturbation.displace` returned.
        parameters: of any shape; those without a gradient are passed over.
    """
    values = [_values(p.grad) for p in parameters if p.grad is not None]
    if values:
        smallest = min((value for value in values if value.numel()), key=Tensor.numel, default=values[0])
        smallest.add_(check.to(smallest.device, non_blocking=True) * 0)


def _values(gradient: Tensor) -> Tensor:
    if gradient.layout is not torch.strided:
        return gradient._values()
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient
