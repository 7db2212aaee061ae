"""`saft train`: fine-tune on one task -> one checkpoint folder."""

from __future__ import annotations

from saft.config import as_config
from saft.training.fine_tuning import fine_tune
from saft.training.train_config import TrainConfig
from saft.training.train_result import TrainResult

__all__ = ["TrainConfig", "TrainResult", "train"]


def train(config: TrainConfig, overwrite: bool = False) -> TrainResult:
    """Fine-tune the model on one task, and write the checkpoint folder.

    An interrupted training goes on where it stopped when it is called again with the same config, and ends
    with the same weights.

    Args:
        config: see `TrainConfig`.
        overwrite: replace what is in `config.out`.

    Returns:
        The folder, the validation score and the number of steps.

    Raises:
        UserError: something in the config does not fit, the target is not empty, or training diverged.

    Example:
        >>> from saft.model_config import ModelConfig
        >>> task = {"kind": "text_clasification"}
        >>> train(TrainConfig(ModelConfig("./no-folder"), task, out="runs/never"))
        Traceback (most recent call last):
        saft.errors.UserError: task.kind: unknown task kind 'text_clasification'; did you mean ...
    """
    config = as_config(config, TrainConfig)
    return fine_tune(config, overwrite)
