"""A merge written as whole weights, with interventions that are trained for each task (IntervMerge)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saft.merging.merge_config import MergeConfig
from saft.merging.method import Method
from saft.merging.outputs.output import OUTPUTS, Written
from saft.merging.outputs.target_folder import file_name_problems
from saft.merging.outputs.whole_model import Weights
from saft.merging.plan import Plan
from saft.merging.stream.reader import Progress

__all__ = ["WeightsAndInterventions"]


@OUTPUTS.register("interventions")
@dataclass(frozen=True)
class WeightsAndInterventions(Weights):
    """The merged model, which every reader takes, and parts/TASK.safetensors with the interventions.

    They are trained by the plan's trainer, which `saft.calibration` sets; `saft.load_task` and
    `saft evaluate` attach them.
    """

    precedence = 2  # not by name, as whole weights
    reads_examples = True

    @classmethod
    def asked_for(cls, config: MergeConfig, method: Method) -> WeightsAndInterventions | None:
        """Return it where a merge file has `interventions`."""
        return None if config.interventions is None else cls()

    def conflicts(self, config: MergeConfig) -> Iterator[str]:
        """Yield what does not go with interventions."""
        yield from file_name_problems(config.by_task())
        if config.adapter_rank is not None:
            yield "adapter_rank: interventions are trained for a whole model; leave one of the two out"

    def write(self, plan: Plan, folder: Path, progress: Progress | None = None) -> Written:
        """Write the weights, and train the interventions on them.

        Raises:
            UserError: as `Output.write`.
            ValueError: the plan has not read examples: it is not from `saft.calibration.collected`.
        """
        if plan.train is None:
            raise ValueError("interventions read examples; take the plan from saft.calibration.collected")
        super().write(plan, folder, progress)
        trained = plan.train(plan, folder, progress)
        data, settings = trained["data"], trained["interventions"]
        counts = ", ".join(f"{count} of {task}" for task, count in data["examples"].items())
        card = _CARD.format(counts=counts, split=data["split"], task=next(iter(plan.models)), **settings)
        return Written(trained, card)


_CARD = """
## Interventions

`parts/` holds for each task an intervention (rank {rank}, positions: {positions}) after the attention of
every block, trained to bring the merged model's features near those of the task's own model (IntervMerge,
arXiv 2412.17023), on examples of the {split} split without their labels: {counts}. Test examples were not
read. A task's model with its interventions:

```python
model = saft.load_task("this/folder", "{task}")
```
"""
