"""A grid of four cells, what one process makes of it, and how two folders are compared."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.experiment import RunConfig
from saft.experiment.claims import Claim, ClaimFolder
from saft.run import run

Load = Callable[..., RunConfig]
Figures = Callable[[Path], dict[str, str]]
Kill = Callable[[Path, type[Any], Callable[[Claim], bool]], list[Claim]]


@pytest.fixture(scope="package")
def grid(small: dict[str, Any]) -> dict[str, Any]:
    slow = {"steps": 40, "batch_size": 4, "learning_rate": 1e-3}
    return small | {"arms": {"quick": {**slow, "steps": 2}, "slow": slow}, "seeds": [0, 1]}


@pytest.fixture(scope="package")
def load(grid: dict[str, Any]) -> Load:
    def load(out: Path, **changes: Any) -> RunConfig:
        return config.parse(RunConfig, grid | {"out": str(out), **changes}, "run.yaml")

    return load


@pytest.fixture(scope="package")
def serial(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "run"
    run(load(folder))
    return folder


@pytest.fixture(scope="package")
def figures() -> Figures:
    def figures(folder: Path) -> dict[str, str]:
        """Return every file of figures without the seconds, and the bytes of every model."""
        texts = {
            str(file.relative_to(folder)): re.sub(r'"(seconds|memory)": [^,}]+', "", file.read_text())
            for file in sorted((folder / "figures").rglob("*.json"))
        }
        models = {
            str(file.relative_to(folder)): file.read_bytes().hex()
            for file in sorted(folder.rglob("*.safetensors"))
        }
        return texts | models

    return figures


@pytest.fixture(autouse=True)
def _no_notes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.progress._noted", set())


@pytest.fixture
def kill_one(monkeypatch: pytest.MonkeyPatch) -> Kill:
    def kill_one(folder: Path, workers: type[Any], is_far: Callable[[Claim], bool]) -> list[Claim]:
        """Kill the first worker that is far enough, whenever a crew counts its own; return who was killed."""
        killed: list[Claim] = []
        running = workers.running

        def watched(self: Any) -> int:
            for claim in ClaimFolder(folder).latest().values() if not killed else ():
                if claim.state == "at work" and is_far(claim):
                    os.kill(claim.process, signal.SIGKILL)
                    killed.append(claim)
                    break  # not another as well, which may be as far
            return int(running(self))

        monkeypatch.setattr(workers, "running", watched)
        return killed

    return kill_one
