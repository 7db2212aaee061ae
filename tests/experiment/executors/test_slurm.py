"""Job arrays, with submitit's executor of this machine in Slurm's place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment.claims import Claim
from saft.run import run

pytest.importorskip("submitit")

from saft.experiment.executors import slurm as module


@pytest.mark.slow
def test_a_worker_killed_half_way_is_replaced_and_the_same_bits_come_out(
    load: Any, figures: Any, serial: Path, tmp_path: Path, kill_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def is_far(claim: Claim) -> bool:
        return bool(claim.machine) and any(folder.glob(f"figures/{claim.cell}/**/*.json"))

    killed = kill_one(folder, module._Jobs, is_far)
    monkeypatch.setattr(module, "CLUSTER", "local")
    monkeypatch.setattr(module, "EVERY", 0.2)
    # Where SIGINT is ignored, as in what a shell runs in the background, submitit's local jobs end by themselves.
    monkeypatch.setattr(module, "GRACE", 60.0)
    run(load(folder, executor="slurm"))
    assert len(killed) == 1
    assert figures(folder) == figures(serial)
    assert not (folder / "claims").exists()


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm here")
def test_a_machine_without_slurm_is_told_before_anything_is_written(load: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no Slurm on this machine"):
        run(load(tmp_path / "run", executor="slurm"))
    assert not (tmp_path / "run").exists()
