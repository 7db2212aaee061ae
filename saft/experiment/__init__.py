"""An experiment: every task fine-tuned in every cell of a grid, merged, tested and measured, in a folder that
can be gone on with, and that grows."""

from __future__ import annotations

from saft.experiment.cells import Cell
from saft.experiment.merge_options import MergeOptions
from saft.experiment.run_config import RunConfig

__all__ = ["Cell", "MergeOptions", "RunConfig"]
