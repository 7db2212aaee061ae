"""What may be said of how a model is fine-tuned."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from saft import config
from saft.config import (
    Count,
    CountOrZero,
    Fraction,
    Named,
    NonNegative,
    Positive,
    Range,
)
from saft.errors import UserError, collecting
from saft.training.merged_start import MergedStart

if TYPE_CHECKING:
    from saft.parametrizations import Parametrization

__all__ = ["TrainingOptions"]

Momentum = Annotated[float, Range(at_least=0, below=1)]

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
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory, more
    time, the same bits."""
    compile: bool = False
    """Compile the trunk by torch.compile: takes a minute first, pays on long trainings, above all on GPUs;
    needs a C++ compiler. Sums may be taken in another order, and dropout draws other masks than without."""
    learning_rate: NonNegative = 1e-5
    """Peak learning rate."""
    layer_decay: Fraction = 1.0
    """Factor on the learning rate from each layer to the one before it, in (0, 1]; 1 has one rate for all."""
    weight_decay: NonNegative = 0.01
    """Weight decay, decoupled in AdamW; on matrices only, not on biases and norms."""
    betas: tuple[Momentum, Momentum] = BETAS
    """Decay rates of AdamW's moments, in [0, 1)."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """The learning rate after the warm-up: constant, or falling to what would be 0 after the last step."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises: step i of n, from 1, takes i / (n + 1) of it."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the descent gradient; null does not clip. The ascent gradient is never clipped."""
    optimizer: Named | None = None
    """Who takes the steps: {name: "module:Class"} and keywords of that class; null is AdamW."""
    perturbation: Named | None = None
    """The ascent step, for example {name: sam, rho: 0.05}; rho may be auto or others; null has none."""
    penalty: Named | None = None
    """What is added to the loss, for example {name: drift, strength: 2, every: 8}; null adds nothing."""
    parametrization: Named | None = None
    """What of the trunk is trained, for example {name: attention}; null is all of it, as {name: full}."""
    averaging: Named | None = None
    """Average of the weights of all steps that is kept, for example {name: ema}; null keeps the last."""
    first_round: dict[str, Any] | None = None
    """Of an arm of `saft run`: what a training before it, of every task from the base, changes of these
    options, for example {steps: 67}; a perturbation that goes by the others' task vectors it leaves out.
    `start` merges its experts, or perturbation: {name: task_vectors} reads their task vectors."""
    start: MergedStart | None = None
    """Of an arm with a first round: how its experts are merged into the weights that this training starts
    from, and that its task vectors are counted from, for example {method: tsv_m}; null starts from the base.
    Each task goes on with its head of the first round."""

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

    def check_options(self) -> None:
        """Check what the files of perturbations, penalties and the like know: their options.

        Raises:
            UserError: an option does not exist, or a value is out of range.
        """
        from saft.optim import make_perturbation
        from saft.parametrizations import parametrization
        from saft.penalties import penalty
        from saft.training.optimizer import check_keys
        from saft.trajectory import averaging

        problems: list[str] = []
        for key, build in (
            ("optimizer", check_keys),
            ("perturbation", make_perturbation),
            ("penalty", penalty),
            ("parametrization", parametrization),
            ("averaging", averaging),
        ):
            with collecting(problems, f"{key}: "):
                if (options := getattr(self, key)) is not None:
                    build(**options)
        if problems:
            raise UserError(*problems)
        self._check_rounds()
        ascent = (self.perturbation or {}).get("name", "sam")
        if self.trained.climbs_weights and ascent != "sam":
            raise ValueError(
                f"parametrization: rho_space: weights goes with perturbation: {{name: sam}}, not {ascent}, "
                "which perturbs the factors; leave rho_space out"
            )
        if ascent == "norm_only" and not self.trained.has_norms:
            trained = (self.parametrization or {}).get("name")
            raise ValueError(
                f"perturbation: norm_only climbs along norms, of which parametrization: {trained} has none;"
                " take another perturbation, or full or only"
            )
        if self.penalty is not None and self.perturbation is not None:
            if self.trained.climbs_weights and penalty(**self.penalty).of_weights:
                raise ValueError(
                    f"penalty: {self.penalty['name']} looks at the weights that are trained, the factors, "
                    "but parametrization: rho_space: weights climbs others; leave rho_space out, or take "
                    "{name: drift}, which looks at outputs"
                )
            with collecting(problems, "penalty: "):
                penalty(**self.penalty).check_ascent(make_perturbation(**self.perturbation))
            if problems:
                raise UserError(*problems)
        for key in ("gradient_checkpointing", "compile"):
            if getattr(self, key) and self.trained.is_linear:
                raise ValueError(
                    f"{key}: does not go with parametrization: linearized; leave one of them out"
                )

    def late_check(self) -> None:
        """Check what only torch knows: that the optimizer can be made, and take a step of what is trained.

        Raises:
            UserError: it cannot, or it does not go with other options.
        """
        for training in self.trainings:
            training.check_optimizer({})

    def check_optimizer(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check that the optimizer, unless it is AdamW, takes steps of what is trained.

        Args:
            shapes: what is trained beside the vectors of a trunk, in words -> its shape.

        Raises:
            UserError: it does not, or it does not go with other options.
        """
        if self.optimizer is None:
            return
        from saft.optim import make_perturbation
        from saft.training.optimizer import averages_by_itself, try_optimizer

        shapes = ({"the trunk's biases": (1,)} if self.trained.has_vectors else {}) | dict(shapes)
        made = try_optimizer(self.weight_decay, self.betas, self.optimizer, shapes, self.layer_decay)
        if self.perturbation is not None:
            make_perturbation(**self.perturbation).check_optimizer(made)
        if averages_by_itself(made) and (self.averaging is not None or self.select_steps):
            raise UserError(
                f"optimizer: {self.optimizer['name']} averages the weights by itself; leave out averaging and"
                " select_steps"
            )

    def _check_rounds(self) -> None:
        if self.start is not None and self.first_round is None:
            raise ValueError(
                "start: merges the experts of a first round; write how they are trained, such as "
                "first_round: {steps: 67}"
            )
        if self.first is not None:
            if self.first.needs_vectors or self.first.first_round is not None:
                raise ValueError(
                    "first_round: is the first, so there is nothing before it; leave out its own first_round "
                    "and perturbation: {name: task_vectors}, and give its rho: others the number of tasks"
                )
            if self.needs_vectors and self.start is not None:
                raise ValueError(
                    f"start: is at the merge of the others' experts already; leave it out, or {self.asking}"
                )
            if not self.needs_vectors and self.start is None:
                raise ValueError(
                    "first_round: is read by nothing; add start: {method: ...}, which merges its experts, or "
                    "perturbation: {name: task_vectors}, or rho: others without tasks"
                )
            self._first("options")
        later = [self, self.first] if self.rounds > 1 else [self]
        if self.start is not None and any((o.penalty or {}).get("summaries") for o in later if o):
            raise ValueError("start: is a merge, and penalty: summaries are of the base; leave out one")
        if self.asking and (self.trained.is_adapter or self.trained.is_linear):
            of_weights = "shifts" if self.asking == "task_vectors" else "goes by"
            raise ValueError(
                f"perturbation: {self.asking} {of_weights} the trunk's own weights, which parametrization: "
                f"{(self.parametrization or {}).get('name')} does not train; take full or attention"
            )

    @property
    def asking(self) -> str | None:
        """What of the perturbation goes by the other tasks' task vectors, or an estimate of them, if any."""
        from saft.optim import make_perturbation

        made = None if self.perturbation is None else make_perturbation(**self.perturbation)
        if made is None or (made.coefficient is None and not made.needs_vectors):
            return None
        return "task_vectors" if made.needs_vectors else "rho: others"

    @property
    def needs_vectors(self) -> bool:
        """Whether the perturbation needs the other tasks' task vectors, or their length."""
        from saft.optim import make_perturbation

        return self.perturbation is not None and make_perturbation(**self.perturbation).needs_others

    @functools.cached_property
    def first(self) -> TrainingOptions | None:
        """How every task is trained before; None without a first round. An ascent that goes by the others'
        task vectors has none yet, so there is none then but what it says itself."""
        return None if self.first_round is None else self._first("fields")

    @property
    def rounds(self) -> int:
        """How many rounds are trained before the training itself; 0 without a first round."""
        if self.first_round is None:
            return 0
        return 1 if self.start is None else self.start.rounds

    @property
    def takes_all(self) -> bool:
        """Whether the optimizer takes steps of whatever a model has."""
        if self.optimizer is None:
            return True
        from saft.training.optimizer import takes_all

        return takes_all(self.weight_decay, self.betas, self.optimizer)

    @property
    def trainings(self) -> list[TrainingOptions]:
        """How a task is trained: in the first round, if there is one, and then itself."""
        return [self] if self.first is None else [self.first, self]

    def _first(self, depth: config.Depth) -> TrainingOptions:
        alone = {"first_round": None, "start": None} | ({"perturbation": None} if self.asking else {})
        plain = dataclasses.asdict(self) | alone | (self.first_round or {})
        return config.parse(TrainingOptions, plain, "", "first_round", depth)

    @property
    def last(self) -> TrainingOptions:
        """How a task is trained itself, without the round before."""
        return dataclasses.replace(self, first_round=None, start=None)

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
        if (first := self.first) is not None:
            total += first.passes * self.rounds
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
