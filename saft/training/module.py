"""The LightningModule: ascent, replay and descent in one readable method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from saft.errors import UserError
from saft.optim import Ascent, make_perturbation
from saft.optim.auto_radius import BrokenLoss, find_radius
from saft.optim.others_radius import Change, LikeOwn, SumOfOthers
from saft.optim.parameter_groups import Groups
from saft.penalties import BoundPenalty, Setting, penalty
from saft.progress import note
from saft.tasks import Batch, BoundTask, Examples, TaskModel
from saft.tasks.examples import TrainingOrder
from saft.training.callbacks import Diverged
from saft.training.data_parallel import is_divided, sum_gradients, total
from saft.training.layer_decay import layer_factors
from saft.training.optimizer import averages_by_itself, make_optimizer, parameter_groups
from saft.training.options import TrainingOptions

__all__ = ["TaskModule"]

STREAMS = 1009  # of random numbers in a step: one for each device
OPTIMIZER = STREAMS - 1  # the same on every device, whose weights are to stay alike


class TaskModule(L.LightningModule):
    """Fine-tunes a model on one task, with or without a perturbation.

    Every random number of a step (dropout, what an optimizer draws) comes from a stream of its own, keyed by
    `seed` and the step. So both passes of a step drop the same units, and a run that is resumed at any step
    equals one that never stopped.

    Args:
        model: trunk and head; a frozen head is not trained.
        task: says the loss.
        examples: the training split.
        options: see `TrainingOptions`.
        seed: of the order of the examples and of dropout.
        workers: processes that make the batches ahead; 0 makes each when it is needed.
        vectors: name of a parameter of the trunk -> the sum of the other tasks' task vectors, for a
            perturbation that needs them, or whose rho is others.
    """

    def __init__(
        self, model: TaskModel, task: BoundTask, examples: Examples, options: TrainingOptions, seed: int,
        workers: int = 0, vectors: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.after_step = options.trained.wrap(
            model.trunk, lambda count: _losses(model, task, examples, count)
        )
        self.climbed = options.trained.climbed(model.trunk)
        self.automatic_optimization = False
        self.model = model
        self.task = task
        self.examples = examples
        self.options = options
        self.seed = seed
        self.workers = workers
        self.vectors = vectors or {}
        self.ascent: Ascent | None = None
        self.others = self._others()
        self.penalty = None if options.penalty is None else penalty(**options.penalty)
        self.bound_penalty: BoundPenalty | None = None
        climbed = "loss" if self.penalty is None else self.penalty.ascend
        self._climbed = frozenset({"loss", "penalty"} if climbed == "both" else {climbed})
        self._ascent_state: dict[str, Any] | None = None

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One update: gradient at w; with an ascent, gradient at w + epsilon, back to w; clip; descent.

        Where the penalty is due, it is part of the descent gradient, and of what is climbed if it says so.

        Raises:
            UserError: the loss depends on nothing that is trained.
        """
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        optimizer.zero_grad()

        self._draw_anew(self.global_rank)
        descent = self._terms()
        climbed = descent & self._climbed
        if self.ascent is not None and self.ascent.needs_radius and climbed:
            self._find_radius(self.ascent, batch, climbed)
        if self.ascent is None:
            loss = self._backward(batch, descent)
        elif self.ascent.replays and climbed:
            with self.ascent.first_pass():
                self._ask("in_first_pass")
                loss = self._backward(batch, climbed)
            self._ask("before_replay")
            with self.ascent.perturbed():
                self._ask("in_replay")
                replayed = self._backward(batch, descent)
            loss = loss if "loss" in climbed else replayed
        else:
            with self.ascent.first_pass():
                loss = self._backward(batch, descent)
            self.ascent.skip_replay()

        if batch_index == 0 and all(parameter.grad is None for parameter in self._trained()):
            raise self._unreached()
        if self.options.gradient_clip is not None:  # Lightning's own refuses fused optimizers in bf16
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.options.gradient_clip)
        self._draw_anew(OPTIMIZER)
        optimizer.step()
        if self.climbed is not None and self.ascent is not None:
            self.ascent.advance()
        if self.after_step is not None:
            self.after_step()
        self.log("loss", loss, prog_bar=True)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])
        schedule.step()
        if self.ascent is not None and self.others is not None:
            self.log("rho", self.ascent.perturbation.rho)

    def _draw_anew(self, stream: int) -> None:
        """Begin a stream of random numbers that depends on the step alone, and on which stream it is."""
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * STREAMS + stream)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.trunk.parameters() if parameter.requires_grad]

    def _unreached(self) -> UserError:
        return UserError(
            f"parametrization: the loss of {self.task.name} depends on no tensor that is trained of "
            f"{type(self.model.trunk).__name__}; train others"
        )

    def _find_radius(self, ascent: Ascent, batch: Batch, climbed: frozenset[str]) -> None:
        """Find the radius of rho: auto on the batch of this step."""

        def loss_in(phase: Literal["in_first_pass", "in_replay"]) -> Tensor:
            self._ask(phase)
            return self._backward(batch, climbed)

        try:
            rho = find_radius(
                ascent,
                at_w=lambda: loss_in("in_first_pass"),
                above=lambda: loss_in("in_replay"),
                between=lambda: self._ask("before_replay"),
            )
        except BrokenLoss as error:
            raise Diverged(f"training diverged: {error}; lower learning_rate") from None
        assert rho is not None  # nothing scales the gradients here
        note(f"rho: auto is {rho:.3g} in this training of {self.task.name}")

    def _ask(self, phase: Literal["in_first_pass", "before_replay", "in_replay"]) -> None:
        """Ask for the gradients of a phase, where what SAM perturbs is not what is trained."""
        if self.climbed is not None:
            getattr(self.climbed, phase)()

    def _terms(self) -> frozenset[str]:
        """Return what this step descends: the loss, and the penalty on the steps that have it."""
        due = self.penalty is not None and self.penalty.due(self.global_step)
        return frozenset({"loss", "penalty"}) if due else frozenset({"loss"})

    def _backward(self, batch: Batch, terms: frozenset[str]) -> Tensor:
        """Add up the gradients of the mean loss, by micro-batches, and of the penalty; return the loss.

        The mean is over the batch of all devices, whose gradients are added up last.
        """
        mean, targets = torch.zeros((), device=self.device), total(batch.targets)
        for part in batch.split(self.options.micro_batch_size) if "loss" in terms else ():
            loss = self.task.loss(self.model, part) * (part.targets / targets)
            if not loss.requires_grad:
                raise self._unreached()
            self.manual_backward(loss)
            mean += loss.detach()
        if "penalty" in terms:  # the same on every device
            assert self.bound_penalty is not None
            added = self.bound_penalty.loss(self.model.trunk, self.global_step)
            self.manual_backward(added / self.trainer.world_size if is_divided() else added)
        sum_gradients(self.parameters())
        return total(mean)

    def bind_penalty(self, setting: Setting) -> None:
        """Bind the penalty, if the options have one, to the model, whose weights are those of the base now.

        Call it in the precision in which the steps compute.
        """
        if self.penalty is not None:
            self.bound_penalty = self.penalty.bind(self.model.trunk, setting)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer and its schedule, untouched by the ascent, which is over before a step."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        options = self.options
        groups = parameter_groups(parameters, options.learning_rate, self._factors(parameters))
        optimizer = make_optimizer(
            groups, options.learning_rate, options.weight_decay, options.betas, options.optimizer
        )
        if self.options.perturbation is not None:
            vectors: dict[str, Any] = {}
            if make_perturbation(**self.options.perturbation).needs_vectors:
                vectors["vectors"] = {f"trunk.{name}": vector for name, vector in self.vectors.items()}
            perturbation = make_perturbation(**self.options.perturbation, **vectors)
            self.ascent = Ascent(self._ascended(optimizer), perturbation, modules=self.model)
            self.ascent.others = self.others
        schedule = LambdaLR(optimizer, self.options.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _others(self) -> Change | None:
        """Return what merging adds to the trunk, or is taken to, where rho is others; its weights are w0 now.

        A training that goes on from a checkpoint is at the base here, too.
        """
        ascent = self.options.perturbation
        made = None if ascent is None else make_perturbation(**ascent)
        if made is None or made.coefficient is None:
            return None
        trunk = dict(self.model.trunk.named_parameters())
        return SumOfOthers(trunk, self.vectors) if made.tasks is None else LikeOwn(trunk.values(), made.tasks)

    def _ascended(self, optimizer: Optimizer) -> Optimizer | Callable[[], Groups]:
        """Return where the ascent finds parameters; where these are not the optimizer's, count its steps."""
        if self.climbed is None:
            return optimizer
        weights = self.climbed.weights
        return lambda: [*optimizer.param_groups, {"params": weights}]

    def _factors(self, parameters: list[nn.Parameter]) -> dict[nn.Parameter, float]:
        """Return each parameter's factor on the learning rate, if they differ; a head is in no layer."""
        if self.options.layer_decay == 1:
            return {}
        trunk = dict(self.model.trunk.named_parameters())
        factors = layer_factors(trunk.keys(), self.options.layer_decay)
        own = {parameter: factors[name] for name, parameter in trunk.items()}
        return {parameter: own.get(parameter, 1.0) for parameter in parameters}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a perturbation remembers from step to step; None without one."""
        checkpoint["ascent"] = None if self.ascent is None else self.ascent.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep it until the optimizer is there."""
        self._ascent_state = checkpoint["ascent"]

    def on_train_start(self) -> None:
        """Take up what an interrupted run's perturbation remembered."""
        for optimizer in filter(averages_by_itself, self.trainer.optimizers):
            optimizer.train()  # type: ignore[attr-defined]
        if self.ascent is not None and self._ascent_state is not None:
            self.ascent.load_state_dict(self._ascent_state)

    def on_train_end(self) -> None:
        """Leave the weights that are meant for evaluation."""
        for optimizer in filter(averages_by_itself, self.trainer.optimizers):
            optimizer.eval()  # type: ignore[attr-defined]

    def train_dataloader(self) -> DataLoader[Batch]:
        """One batch per step left, in an order fixed by the seed; each device takes its share of a batch."""
        order = self.examples.training_order(self.options.batch_size, self.options.steps, self.seed)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = _Batches(self.examples, order, slice(rank, None, world))
        return _Resumable(
            batches,
            batch_size=None,
            sampler=_StepsLeft(self.global_step, self.options.steps),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )


def _losses(model: TaskModel, task: BoundTask, examples: Examples, count: int) -> Iterator[Tensor]:
    """Yield the losses of the first so many training examples, one by one."""
    device = next(model.trunk.parameters()).device
    for index in range(min(count, len(examples))):
        yield task.loss(model, examples.collate([index]).to(device))


class _Batches(Dataset[Batch]):
    """The batch of every step, or this device's share of it, made when it is asked for."""

    def __init__(self, examples: Examples, order: TrainingOrder, share: slice) -> None:
        self.examples = examples
        self.order = order
        self.share = share

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        return self.examples.training_batch(self.order[step][self.share], step, self.order.seed)


class _Resumable(DataLoader[Batch]):
    """A loader that Lightning may resume in mid-epoch: where it goes on follows only from the step."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the number of steps taken says it all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: `_StepsLeft` begins at the step that was reached."""


class _StepsLeft(Sampler[int]):
    """The numbers of the steps that are left.

    Its length is the number of all steps: Lightning's loop remembers how many batches of the "epoch" it has
    seen, and compares that with the length.
    """

    def __init__(self, first: int, steps: int) -> None:
        self.first = first
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.steps))
