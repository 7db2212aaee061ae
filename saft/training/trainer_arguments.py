"""The arguments of lightning.Trainer that a config may give, checked before Lightning is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from saft.config import in_words
from saft.errors import UserError, did_you_mean
from saft.training.signatures import arguments

if TYPE_CHECKING:
    from saft.training.options import TrainingOptions

__all__ = ["check_sharded", "check_trainer", "is_sharded"]

OWNED_BY_SAFT = {
    "accumulate_grad_batches": "use training.micro_batch_size",
    "barebones": "",
    "callbacks": "",
    "check_val_every_n_epoch": "use training.select_steps",
    "default_root_dir": "it lies beside `out`",
    "enable_checkpointing": "use checkpoint_every of saft train; saft run writes one every 200 steps",
    "fast_dev_run": "use training.steps",
    "gradient_clip_algorithm": "training.gradient_clip is of the norm",
    "gradient_clip_val": "use training.gradient_clip",
    "limit_predict_batches": "",
    "limit_test_batches": "",
    "limit_train_batches": "use training.steps",
    "limit_val_batches": "use validation_examples",
    "logger": "use logger beside `trainer`",
    "max_epochs": "use training.steps",
    "max_steps": "use training.steps",
    "max_time": "use training.steps",
    "min_epochs": "use training.steps",
    "min_steps": "use training.steps",
    "num_sanity_val_steps": "",
    "overfit_batches": "use train_examples of saft train, or regimes of saft run",
    "reload_dataloaders_every_n_epochs": "",
    "sync_batchnorm": "",
    "use_distributed_sampler": "",
    "val_check_interval": "use training.select_steps",
}

_WORDS = {
    "accelerator": ("auto", "cpu", "cuda", "gpu", "hpu", "mps", "tpu", "xla"),
    "precision": ("32-true", "bf16-mixed", "32", "bf16", 32),
}
# Lightning's other ways: what is trained, merged and measured here is weights in float32.
OTHER_PRECISIONS = ("16", "64", "bf16-true", "transformer-engine")
STRATEGIES = (
    "auto",
    "ddp",
    "fsdp",
)  # the first two are the same: each of several devices has the whole model
LANGUAGE = ("language_modeling", "text_to_text")  # kinds of tasks whose models can be divided
DIVIDED = ("full", "attention", "only", "lora")  # parametrizations that look at no other weights in a step
# Optimizers of torch that treat each number of a weight apart from the others.
ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
_YAML = (bool, int, float, str, list, dict, type(None))


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the arguments for lightning.Trainer that a config gives; whether they go together it says itself.

    Raises:
        UserError: an argument does not exist, is set by saft, or has a value of another kind.

    Example:
        >>> check_trainer({"benchmark": "yes"})
        Traceback (most recent call last):
        saft.errors.UserError: trainer.benchmark: must be null | true | false, but is 'yes'
    """
    problems = [f"trainer.{key}: {text}" for key, value in trainer.items() for text in _problems(key, value)]
    if problems:
        raise UserError(*problems)


def is_sharded(trainer: Mapping[str, Any]) -> bool:
    """Return whether a trainer divides the weights among its devices.

    Example:
        >>> is_sharded({"devices": 2, "strategy": "fsdp"})
        True
    """
    return trainer.get("strategy") == "fsdp"


def check_sharded(
    trainer: Mapping[str, Any], trainings: Iterable[tuple[str, TrainingOptions]], kinds: Mapping[str, str]
) -> None:
    """Check that what is trained goes with weights that are divided among devices, if they are to be.

    Args:
        trainer: arguments for lightning.Trainer.
        trainings: a place in the config, and how a model is trained by it: a place with several is told once.
        kinds: place in the config -> kind of the task there.

    Raises:
        UserError: something does not go with it; it is named.
    """
    if not is_sharded(trainer):
        return
    problems = [
        f"{place}.kind: trainer.strategy: fsdp divides language models ({', '.join(LANGUAGE)}), and not those"
        f" of {kind}; take strategy: ddp"
        for place, kind in kinds.items()
        if kind not in LANGUAGE
    ]
    for place, training in trainings:
        problems += [f"{place}.{text}" for text in _undivided(training)]
    if trainer.get("devices", 1) in (1, "1"):
        problems.append(
            "trainer.devices: is 1, but strategy: fsdp divides a model among several; write 2 or more"
        )
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _undivided(training: TrainingOptions) -> Iterator[str]:
    """Say what of a training does not go with weights that are divided."""
    told = "does not go with trainer.strategy: fsdp, which divides weights among devices"
    if training.penalty is not None:
        yield f"penalty: {training.penalty['name']} {told}: penalties read whole layers"
    if training.averaging is not None:
        yield f"averaging: {training.averaging['name']} {told}"
    if training.compile:
        yield f"compile: {told}"
    if training.asking:
        yield f"perturbation: {training.asking} {told}"
    name = (training.parametrization or {"name": "full"})["name"]
    if name not in DIVIDED:
        yield f"parametrization: {name} {told}; these do: {', '.join(DIVIDED)}"
    elif training.trained.climbs_weights:
        yield f"parametrization: rho_space: weights {told}; rho_space: factors does"
    optimizer = (training.optimizer or {"name": "torch.optim:AdamW"})["name"]
    if optimizer.removeprefix("torch.optim:") not in ELEMENTWISE:
        yield f"optimizer: {optimizer} {told}; of torch.optim these do: {', '.join(ELEMENTWISE)}"


def _problems(key: str, value: Any) -> Iterator[str]:
    if key in OWNED_BY_SAFT:
        yield f"is set by saft; {OWNED_BY_SAFT[key] or 'leave it out'}"
        return
    taken = arguments("lightning.pytorch.trainer.trainer", "Trainer")
    kinds = taken.get(key, frozenset())
    if taken and key not in taken:
        yield f"unknown argument{did_you_mean(key, taken)}"
    elif key == "strategy" and value not in STRATEGIES:
        hint = (
            "weights are divided among devices by strategy: fsdp"
            if any(word in str(value) for word in ("fsdp", "deepspeed", "model_parallel"))
            else f"it is one of {', '.join(STRATEGIES)}"
        )
        yield f"saft cannot train with {value!r}: {hint}"
    elif key == "precision" and str(value).startswith(OTHER_PRECISIONS):
        yield f"{value} is not supported, since weights are float32 here; use bf16-mixed or 32-true"
    elif key in _WORDS and type(value) in _YAML and value is not None and value not in _WORDS[key]:
        yield f"unknown value {value!r}" + did_you_mean(str(value), dict.fromkeys(map(str, _WORDS[key])))
    elif kinds and type(value) in _YAML and not isinstance(value, tuple(kinds)):
        yield f"must be {' | '.join(sorted(map(in_words, kinds)))}, but is {value!r}"
