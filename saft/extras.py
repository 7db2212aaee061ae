"""Libraries that saft does without unless they are asked for: the extras of its package."""

from __future__ import annotations

from importlib.util import find_spec

from saft.errors import UserError

__all__ = ["EXTRAS", "require"]

EXTRAS = {
    "cmaes": "search",
    "mlflow": "mlflow",
    "optuna": "search",
    "peft": "peft",
    "ray": "ray",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Library, as it is imported -> the extra of merge-saft that installs it."""


def require(library: str, place: str) -> None:
    """Refuse what needs a library that is not installed; it is looked for, and not imported.

    Args:
        library: one of `EXTRAS`.
        place: what needs it, which begins the message: `logger`, `executor: ray`.

    Raises:
        UserError: it is not installed.

    Example:
        >>> require("peft", "lora")
    """
    if find_spec(library) is None:
        raise UserError(
            f"{place}: needs {library}, which is not installed; pip install 'merge-saft[{EXTRAS[library]}]'"
        )
