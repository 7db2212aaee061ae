"""A local Ray of two workers: the same bits as one process, while one of them is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment.claims import Claim
from saft.run import run

ray = pytest.importorskip("ray")

from saft.experiment.executors import ray as module  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
    ),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 starves them beside other tests
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError, TimeoutError) as error:
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield
    ray.shutdown()


def test_a_worker_killed_half_way_is_replaced_and_the_same_bits_come_out(
    cluster: None,
    load: Any,
    figures: Any,
    grid: dict[str, Any],
    serial: Path,
    tmp_path: Path,
    kill_one: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"

    def is_far(claim: Claim) -> bool:
        return bool(claim.machine) and any(folder.glob(f"figures/{claim.cell}/**/*.json"))

    killed = kill_one(folder, module._Tasks, is_far)
    monkeypatch.setattr(module, "EVERY", 0.2)
    run(load(folder, executor="ray", arms={"slow": grid["arms"]["slow"]}))  # a cell for each worker
    assert len(killed) == 1
    assert figures(folder) == {name: text for name, text in figures(serial).items() if "quick" not in name}
    assert not (folder / "claims").exists()


def test_a_cluster_that_is_not_there_is_told_before_anything_is_written(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"ray\.address: 'auto' is not a cluster .*`ray start --head`"):
        run(load(tmp_path / "run", executor="ray"))
    assert not (tmp_path / "run").exists()


def test_a_worker_that_ended_without_a_word_is_told_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Exception):
        pass

    def ended(task: Any) -> None:
        raise Silent

    told: list[str] = []
    monkeypatch.setattr(module, "note", told.append)
    tasks = object.__new__(module._Tasks)
    tasks._ray = SimpleNamespace(get=ended)
    tasks._note_end(None)
    assert told == ["a worker of Ray has ended: Silent"]
