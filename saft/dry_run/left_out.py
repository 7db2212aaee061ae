"""What a dry run leaves out of an experiment, in words."""

from __future__ import annotations

from saft.experiment.merge_options import MergeOptions
from saft.experiment.run_config import RunConfig
from saft.merging.methods import METHODS

__all__ = ["ARM_VALUES", "COEFFICIENTS", "LABELS", "MACHINE", "MERGE_VALUES", "coefficients", "left_out"]

LABELS = 4  # of a task, at most
COEFFICIENTS = 2  # of a merge, at most
ARM_VALUES = 2  # of an option among an arm's `choices`, at most
MERGE_VALUES = 1  # of a parameter among a merge's
MACHINE = ("accelerator", "devices", "num_nodes", "strategy")  # of the trainer: this machine may lack them


def coefficients(name: str, merge: MergeOptions) -> list[float]:
    """Return the coefficients that a merge of this name is tried at: its own, or its method's grid."""
    return merge.scaling or list(METHODS.get(merge.method_of(name)).scaling_grid)


def left_out(config: RunConfig) -> list[str]:
    """Return what of an experiment its dry run does not do, beside its being small.

    Args:
        config: of the experiment.

    Example:
        >>> from saft.model_config import ModelConfig
        >>> news = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}
        >>> left_out(RunConfig("runs/x", ModelConfig("gpt2"), {"news": news}, {"adamw": {}}, seeds=[0, 1, 2]))
        ['the seeds 1, 2', 'coefficients of a merge beyond 2']
    """
    words = []
    if seeds := config.seeds[1:]:
        words.append(f"the seeds {', '.join(map(str, seeds))}")
    if sizes := list(config.regimes)[1:]:
        words.append(f"the train sizes {', '.join(sizes)}")
    tasks = [*config.tasks.values(), *config.reference.values(), *config.held_out.values()]
    if any(len(task.get("labels") or ()) > LABELS for task in tasks):
        words.append(f"labels of a task beyond {LABELS}")
    if any(len(coefficients(name, merge)) > COEFFICIENTS for name, merge in config.merges.items()):
        words.append(f"coefficients of a merge beyond {COEFFICIENTS}")
    if any(
        len(values) > MERGE_VALUES for merge in config.merges.values() for values in merge.choices.values()
    ):
        words.append("all but the first of a merge's choices")
    if any(arm.get("choices") for arm in config.arms.values()):
        words.append(f"values of an arm's choices beyond {ARM_VALUES}, and all of its numbers of steps")
    if config.expected:
        words.append("whether the published figures are met")
    if lacking := [f"{key}: {config.trainer[key]}" for key in MACHINE if key in config.trainer]:
        words.append(f"the trainer's {', '.join(lacking)}: it trains on one device that is there")
    if config.executor != "serial":
        words.append(f"the executor {config.executor}: its cells come one after the other")
    return words
