"""What may be said of a fine-tuning: how it trains, and on what, to where."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from saft import config
from saft.config import Count, CountOrZero, Fraction, Location, Name, NonNegative, Positive, Range, Seed
from saft.errors import UserError, did_you_mean
from saft.model_config import ModelConfig

if TYPE_CHECKING:
    from saft.parametrizations import Parametrization

__all__ = ["TrainConfig", "TrainingOptions", "check_trainer", "check_trainer_arguments"]

Momentum = Annotated[float, Range(at_least=0, below=1)]

OWNED_BY_SAFT = {
    "accumulate_grad_batches": "use training.micro_batch_size",
    "barebones": "",
    "callbacks": "",
    "check_val_every_n_epoch": "use training.select_steps",
    "default_root_dir": "it lies beside `out`",
    "enable_checkpointing": "use checkpoint_every",
    "fast_dev_run": "use training.steps",
    "gradient_clip_algorithm": "training.gradient_clip is of the norm",
    "gradient_clip_val": "use training.gradient_clip",
    "limit_predict_batches": "",
    "limit_test_batches": "",
    "limit_train_batches": "use training.steps",
    "limit_val_batches": "use validation_examples",
    "logger": "CSV always; use tensorboard: true for TensorBoard",
    "max_epochs": "use training.steps",
    "max_steps": "use training.steps",
    "max_time": "use training.steps",
    "min_epochs": "use training.steps",
    "min_steps": "use training.steps",
    "num_sanity_val_steps": "",
    "overfit_batches": "use train_examples",
    "reload_dataloaders_every_n_epochs": "",
    "sync_batchnorm": "",
    "use_distributed_sampler": "",
    "val_check_interval": "use training.select_steps",
}

STRATEGIES = ("auto", "ddp")  # which are the same here: one process for each of several devices

BETAS = (0.9, 0.999)

_EXAMPLES = {
    "optimizer": '{name: "torch.optim:SGD", momentum: 0.9}',
    "perturbation": "{name: sam, rho: 0.05}",
    "penalty": "{name: drift, strength: 2}",
    "parametrization": "{name: attention}",
    "averaging": "{name: ema, decay: 0.95}",
}


@config.checked
@dataclass(frozen=True)
class TrainingOptions:
    """How one model is fine-tuned: what an arm of an experiment may change.

    Example:
        >>> TrainingOptions(steps=100, perturbation={"name": "sam", "rho": 0.05}).passes
        200.0
    """

    steps: Count = 200
    """Optimizer steps. A step is one update, however many passes it takes."""
    select_steps: list[Count] = field(default_factory=list)
    """Candidate numbers of steps: train for `steps`, keep the one that validates best (ties: fewest)."""
    batch_size: Count = 8
    """Examples per optimizer step, over all devices; at most as many as there are training examples."""
    micro_batch_size: Count | None = None
    """Examples per forward pass; null takes the batch at once. Both passes see the whole batch either way."""
    learning_rate: NonNegative = 1e-5
    """Peak learning rate."""
    layer_decay: Fraction = 1.0
    """Factor on the learning rate from each layer to the one before it, in (0, 1]; 1 has one rate for all."""
    weight_decay: NonNegative = 0.01
    """Weight decay, decoupled in AdamW; on matrices only, not on biases and norms."""
    betas: tuple[Momentum, Momentum] = BETAS
    """Decay rates of AdamW's moments, in [0, 1)."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """The learning rate after the warm-up: constant, or falling to 0 at the last step."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises from 0."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the descent gradient; null does not clip. The ascent gradient is never clipped."""
    optimizer: dict[str, Any] | None = None
    """Who takes the steps: {name: "module:Class"} and keywords of that class; null is AdamW."""
    perturbation: dict[str, Any] | None = None
    """The ascent step, for example {name: sam, rho: 0.05}; null has none."""
    penalty: dict[str, Any] | None = None
    """What is added to the loss, for example {name: drift, strength: 2, every: 8}; null adds nothing."""
    parametrization: dict[str, Any] | None = None
    """What of the trunk is trained, for example {name: attention}; null is all of it, as {name: full}."""
    averaging: dict[str, Any] | None = None
    """Average of the weights of all steps that is kept, for example {name: ema}; null keeps the last."""

    def __post_init__(self) -> None:
        if any(candidate > self.steps for candidate in self.select_steps):
            raise ValueError(f"select_steps must lie in 1..{self.steps} (steps), but is {self.select_steps}")
        if len(set(self.select_steps)) < len(self.select_steps):
            raise ValueError(f"select_steps: holds a number twice: {self.select_steps}")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps: is {self.warmup_steps}, but there are {self.steps} steps (steps): "
                "learning_rate would never be reached; write fewer"
            )
        if self.averaging is not None and self.select_steps:
            raise ValueError("averaging: an average has no candidates; leave out select_steps")
        for key, example in _EXAMPLES.items():
            options = getattr(self, key)
            if options is not None and "name" not in options:
                raise ValueError(f"{key}: `name` is missing; write {example}")
        if self.optimizer is not None and self.betas != BETAS:
            raise ValueError("betas: are AdamW's; write them below `optimizer`, if it has any")

    def late_check(self) -> None:
        """Check what only the files of perturbations, penalties and the like know: their options.

        Raises:
            ValueError: an option does not exist, or a value is out of range.
        """
        from saft.optim import make_perturbation
        from saft.parametrizations import parametrization
        from saft.penalties import penalty
        from saft.training.optimizer import averages_by_itself, try_optimizer
        from saft.trajectory import averaging

        def optimizer(**options: Any) -> None:
            made = try_optimizer(self.weight_decay, self.betas, options)
            if averages_by_itself(made) and (self.averaging is not None or self.select_steps):
                raise UserError(
                    f"{options['name']} averages the weights by itself; leave out averaging and select_steps"
                )

        for key, build in (
            ("optimizer", optimizer),
            ("perturbation", make_perturbation),
            ("penalty", penalty),
            ("parametrization", parametrization),
            ("averaging", averaging),
        ):
            try:
                if (options := getattr(self, key)) is not None:
                    build(**options)
            except UserError as error:
                raise ValueError(f"{key}: " + str(error).removeprefix(f"{key}: ")) from None

        ascent = (self.perturbation or {}).get("name", "sam")
        if self.trained.climbs_weights and ascent != "sam":
            raise ValueError(
                f"parametrization: rho_space: weights is of perturbation: {{name: sam}}, and not of {ascent},"
                " which perturbs the factors; leave rho_space out"
            )
        if self.penalty is not None and self.trained.is_adapter and penalty(**self.penalty).of_weights:
            raise ValueError(
                f"penalty: {self.penalty['name']} looks at the trunk's weights, which an adapter leaves as"
                " they are; take {name: drift}, which looks at outputs"
            )

    @property
    def trained(self) -> Parametrization:
        """What of the trunk is trained."""
        from saft.parametrizations import parametrization

        return parametrization(**(self.parametrization or {"name": "full"}))

    @property
    def reads(self) -> Literal["others", "reference"] | None:
        """Whose training inputs the penalty reads besides the task's own; see `Penalty.reads`."""
        from saft.penalties import penalty

        return None if self.penalty is None else penalty(**self.penalty).reads

    @property
    def passes(self) -> float:
        """Forward and backward passes of the whole training, each over one batch; see `Penalty.ascend`."""
        from saft.optim import make_perturbation
        from saft.penalties import penalty

        ascent = None if self.perturbation is None else make_perturbation(**self.perturbation)
        total = float(self.steps) if ascent is None else ascent.passes(self.steps)
        total += self.trained.passes(self.batch_size)
        if self.penalty is None:
            return total
        added = penalty(**self.penalty)
        total += added.passes(self.steps, self.batch_size)
        if ascent is None or not ascent.replays or added.ascend == "loss":
            return total
        climbing = {step for step in range(self.steps) if ascent.ascends(step)}
        total += added.cost(self.batch_size) * len(climbing & set(added.due_steps(self.steps)))
        # Where the penalty is what is climbed, the first pass has no loss in it, or there is no ascent.
        return total - len(climbing) if added.ascend == "penalty" else total

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on `learning_rate` for the step numbered from 0.

        Args:
            step: number of the optimizer step, from 0.

        Returns:
            In [0, 1].
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return max(0.0, 1.0 - done)
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@config.checked
@dataclass(frozen=True)
class TrainConfig:
    """What `saft train` needs.

    Example:
        >>> config = TrainConfig(ModelConfig("base"), {"kind": "text_classification"}, out="runs/news")
        >>> config.training.learning_rate
        1e-05
    """

    model: ModelConfig
    """The pretrained model."""
    task: dict[str, Any]
    """The task: `kind` and the keys of that kind; see saft/tasks."""
    out: Location
    """The checkpoint folder to write."""
    name: Name = "task"
    """The task's name: heads/NAME.safetensors, and what merging and reports call it."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """How to fine-tune."""
    seed: Seed = 0
    """Draws the training examples, their order, and dropout."""
    train_examples: Count | None = None
    """Use this many training examples; null uses all."""
    validation_examples: Count | None = None
    """Use at most this many validation examples; null uses all."""
    reference: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Tasks, as under `task`, whose training inputs a penalty reads, unlabelled; `train_examples` of each."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.Trainer: accelerator, precision, devices (of this machine, which share
    every batch; strategy: ddp) ..."""
    data_workers: CountOrZero | None = None
    """Processes that make the batches ahead; 0 makes each when it is needed; null is 4 for images that are
    trained on a GPU, and else 0. The batches are the same."""
    tensorboard: bool = False
    """Log for TensorBoard as well as to CSV; needs the extra merge-saft[tensorboard]."""
    checkpoint_every: CountOrZero = 200
    """Steps between the checkpoints that an interrupted run resumes from; 0 writes none."""

    def __post_init__(self) -> None:
        check_trainer(self.trainer)

    def late_check(self) -> None:
        """Check what only Lightning and the penalties know.

        Raises:
            ValueError: the trainer has no such argument, or the penalty reads tasks that are not listed.
        """
        check_trainer_arguments(self.trainer)
        if self.training.reads is not None and not self.reference:
            raise ValueError(
                f"reference: is missing: training.penalty has inputs: {self.training.reads}; list the tasks"
                " whose training inputs it is to read, each as under `task`"
            )


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the arguments for lightning.Trainer that a config gives, as far as saft knows them itself.

    Raises:
        ValueError: an argument is set by saft, or cannot work here.

    Example:
        >>> check_trainer({"max_steps": 10})
        Traceback (most recent call last):
        ValueError: trainer.max_steps: is set by saft; use training.steps
    """
    for key in trainer:
        if key in OWNED_BY_SAFT:
            raise ValueError(f"trainer.{key}: is set by saft; {OWNED_BY_SAFT[key] or 'leave it out'}")
    strategy = trainer.get("strategy", "auto")
    if strategy not in STRATEGIES:
        hint = (
            "it shards no weights; train an adapter ({name: lora}), or use saft.SAM in a loop of your own,"
            " which knows fully_shard (FSDP2)"
            if any(word in str(strategy) for word in ("fsdp", "deepspeed", "model_parallel"))
            else "it is one of auto, ddp"
        )
        raise ValueError(f"trainer.strategy: saft cannot train with {strategy!r}: {hint}")
    if str(trainer.get("precision", "")).startswith("16"):
        raise ValueError("trainer.precision: float16 is not supported here; use bf16-mixed or 32-true")


def check_trainer_arguments(trainer: Mapping[str, Any]) -> None:
    """Check that lightning.Trainer has the arguments that a config gives, without making one.

    Raises:
        ValueError: it has not.
    """
    import lightning as L

    parameters = list(inspect.signature(L.Trainer.__init__).parameters)[1:]
    for key in trainer:
        if key not in parameters:
            raise ValueError(f"trainer.{key}: unknown argument{did_you_mean(key, parameters)}")
