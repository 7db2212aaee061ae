"""`saft summarize`: a task's inputs -> two matrices a layer, which other trainings respect without them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saft import tasks
from saft.config import as_config
from saft.errors import UserError
from saft.files.staging import refuse_file
from saft.penalties import Unlabelled, kronecker
from saft.summarize_config import SummarizeConfig
from saft.tasks import Limits

__all__ = ["SummarizeConfig", "SummarizeResult", "summarize"]


@dataclass(frozen=True)
class SummarizeResult:
    """What was summarized, and where it is.

    Args:
        file: the safetensors file.
        factors: what it was made of.
        examples: training inputs that it was made from.
        numbers: how many it holds.
    """

    file: Path
    factors: kronecker.KroneckerFactors
    examples: int
    numbers: int

    def __str__(self) -> str:
        numbers = f"{self.numbers / 1e6:.1f} million" if self.numbers >= 1e6 else self.numbers
        looks_up = any(matrices.inputs.dim() == 1 for matrices in self.factors.layers.values())
        return (
            f"{self.file}: {len(self.factors.layers)} layers, {numbers} numbers, from "
            f"{self.examples} input{'s' * (self.examples > 1)}\n"
            f"what it reveals of them: {'which tokens occur and how often; ' * looks_up}of activations and "
            "gradients only second moments over all inputs: the fewer these are, the more of each\n"
            f"next: saft train, with training.penalty: {{name: kfac_drift, summaries: [{self.file}]}}"
        )


def summarize(config: SummarizeConfig, overwrite: bool = False) -> SummarizeResult:
    r"""Write what other trainings need to know of a task in order to leave its outputs where they are.

    $A = E[a a^\top]$ and $B = E[\sum_t g_t g_t^\top]$ of every layer at the base; see `KroneckerFactors`. An
    expert of another task that is trained with the penalty `kfac_drift` reads such files, and no data.

    Args:
        config: see `SummarizeConfig`.
        overwrite: replace the file `config.out`.

    Returns:
        The file, and what is in it.

    Raises:
        UserError: something in the config does not fit, or the file is there already.

    Example:
        >>> from saft.model_config import ModelConfig
        >>> task = {"kind": "text_clasification"}
        >>> summarize(SummarizeConfig(ModelConfig("./no-folder"), task, out="never.safetensors"))
        Traceback (most recent call last):
        saft.errors.UserError: task.kind: unknown task kind 'text_clasification'; did you mean ...
    """
    config = as_config(config, SummarizeConfig)
    file = Path(config.out)
    refuse_file(file)
    if file.exists() and not overwrite:
        raise UserError(f"{file}: exists already; replace it with --overwrite")
    task = tasks.build("", config.task, "task").bind(config.name, config.model, "task", config.device)
    examples = task.examples(Limits(config.examples, validation=0, test=0, seed=config.seed)).train
    source = Unlabelled.of(task, examples)
    factors = kronecker.summarize(task.load_trunk(), source, config.examples, config.seed)
    numbers = factors.write(file, config.rank)
    return SummarizeResult(file, factors, len(examples), numbers)
