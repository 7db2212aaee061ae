"""saft: fine-tune models that will be merged, merge them, and measure how much the tasks interfere.

Every verb of the command line that takes a config is a function: `saft.run`, `train`, `merge`, `evaluate`,
`measure`, `suggest`, `summarize`; and so is `saft.methods`.
The optimizer needs nothing else of saft: `saft.SAM`; nor do models in memory that are merged:
`saft.merge_models`.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# OpenMP's threads wait for each other by spinning. With another busy process on one of the cores they spin
# against it, and a step takes 20 to 30 times as long. Spinning 10 000 times, then sleeping, costs nothing
# else (`scripts/bench threads`). It is read when torch is loaded; a user's own choice stays.
if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "10000"

# name -> the module that holds it; imported when it is first asked for, so that `import saft` is instant.
_LAZY = {
    "SAM": "saft.optim",
    "run": "saft.run",
    "RunConfig": "saft.experiment.run_config",
    "train": "saft.train",
    "TrainConfig": "saft.training.train_config",
    "merge": "saft.merge",
    "MergeConfig": "saft.merging.merge_config",
    "merge_models": "saft.merging.merge_models",
    "evaluate": "saft.evaluate",
    "EvaluateConfig": "saft.evaluate_config",
    "measure": "saft.measure",
    "MeasureConfig": "saft.measure_config",
    "suggest": "saft.suggest",
    "SuggestConfig": "saft.suggest_config",
    "summarize": "saft.summarize",
    "SummarizeConfig": "saft.summarize_config",
    "methods": "saft.merging.methods",
    "load_task": "saft.models",
    "load_mixture": "saft.mixture",
}
__all__ = [*_LAZY]
_MODULES = ("config", "errors", "integrations", "optim", "report")  # that are spoken of as `saft.report.read`


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"saft.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'saft' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]


class _Package(ModuleType):
    """Keeps `saft.train` the verb: importing the file saft/train.py would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _LAZY.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
