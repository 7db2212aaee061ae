"""Loggers: what is installed is checked first; a run is opened, written to, and ended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from saft import config
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.train import TrainConfig, train
from saft.training import loggers as module
from saft.training.loggers import check_logger, loggers

TASK = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}


class Recorder(DummyLogger):
    """Stands for a service: remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.finished = 0

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1

    def log_hyperparams(self, params: dict[str, Any], *rest: Any, **keywords: Any) -> None:
        self.told |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, metrics))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all of them were installed."""
    monkeypatch.setattr("saft.extras.find_spec", lambda name: name)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, installed: None) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(module, "_MAKERS", dict.fromkeys(("wandb", "mlflow"), lambda config, work: made))
    return made


def trained(model: Path, task: dict[str, Any], out: Path, logger: str) -> Path:
    """Train in a few steps, and return the folder."""
    mapping = {
        "model": {"path": str(model)},
        "task": task,
        "out": str(out),
        "training": {"steps": 3},
        "logger": logger,
    }
    return train(config.parse(TrainConfig, mapping, "test")).folder


def settings(**keys: Any) -> TrainConfig:
    return TrainConfig(ModelConfig("no/model"), TASK, out="runs/news", **keys)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_logger_that_is_not_installed_is_told_with_its_extra(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saft.extras.find_spec", lambda _: None)
    told = rf"logger: needs {name}, which is not installed; pip install 'merge-saft\[{name}\]'"
    with pytest.raises(UserError, match=told):
        check_logger(name)
    mapping = {"model": {"path": "m"}, "task": TASK, "out": "o", "logger": name}
    with pytest.raises(UserError, match=told):
        config.parse(TrainConfig, mapping, "train.yaml", depth="options")


def test_without_a_logger_lightning_has_none(tmp_path: Path) -> None:
    with loggers(settings(), tmp_path) as opened:
        assert opened == []


def test_a_run_is_ended_so_that_the_next_training_has_its_own(tmp_path: Path, recorder: Recorder) -> None:
    def interrupted() -> None:
        with loggers(settings(logger="wandb"), tmp_path) as opened:
            assert opened == [recorder]
            assert recorder.finished == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert recorder.finished == 1
    assert recorder.told["task"] == "task"
    assert recorder.told["learning_rate"] == 1e-5


def test_a_service_that_refuses_is_told_in_one_line(
    tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: TrainConfig, work: Path) -> Any:
        raise RuntimeError("no API key\nmore of it")

    monkeypatch.setattr(module, "_MAKERS", {"wandb": refuse})
    with (
        pytest.raises(UserError, match=r"^logger: wandb: no API key; log in by `wandb login`, or set .*$"),
        loggers(settings(logger="wandb"), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "kind", "variable"),
    [("wandb", "WandbLogger", "WANDB_PROJECT"), ("mlflow", "MLFlowLogger", "MLFLOW_EXPERIMENT_NAME")],
)
def test_a_run_is_called_as_its_folder_in_the_project_of_the_environment(
    name: Any, kind: str, variable: str, tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's constructors take what they are given here; their services are not called."""
    given: list[list[Any]] = []

    def make(*args: Any, **keywords: Any) -> Recorder:
        given.append([*args, *keywords.values()])
        return Recorder()

    service = SimpleNamespace(Settings=lambda **keys: keys, get_tracking_uri=lambda: "file:here")
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}", make)
    monkeypatch.delenv(variable, raising=False)
    with loggers(settings(logger=name), tmp_path):
        pass
    monkeypatch.setenv(variable, "mine")
    with loggers(settings(logger=name), tmp_path):
        pass
    assert all("runs/news" in values for values in given)
    assert "saft" in given[0]
    assert "mine" in given[1]


@pytest.mark.parametrize(
    ("name", "kind", "key"), [("wandb", "WandbLogger", "id"), ("mlflow", "MLFlowLogger", "run_id")]
)
def test_a_training_that_goes_on_writes_to_the_run_that_it_had_begun(
    name: Any, kind: str, key: str, tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str | None] = []

    class Begun(Recorder):
        version = "run-7"

    def make(*args: Any, **keywords: Any) -> Recorder:
        given.append(keywords[key])
        return Begun()

    service = SimpleNamespace(Settings=lambda **keys: keys, get_tracking_uri=lambda: "file:here")
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}", make)
    for _ in range(2):
        with loggers(settings(logger=name), tmp_path):
            pass
    with loggers(settings(logger=name), tmp_path / "other"):
        pass
    assert given == [None, "run-7", None]


def test_a_service_that_fails_meanwhile_is_told_once_and_loses_no_training(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    tmp_path: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is away\nmore of it")

    for name in ("log_metrics", "save", "finalize", "_finish"):
        monkeypatch.setattr(recorder, name, fail)
    folder = trained(tiny_model, tiny_tasks["colour"], tmp_path / "out", "wandb")
    assert (folder / "logs/metrics.csv").is_file()
    told = capsys.readouterr().err
    assert told.count("logger: wandb: the server is away; the training goes on") == 1, told


def test_a_training_writes_to_both(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path, recorder: Recorder
) -> None:
    folder = trained(tiny_model, tiny_tasks["colour"], tmp_path / "out", "mlflow")
    losses = [metrics["loss"] for _, metrics in recorder.metrics if "loss" in metrics]
    assert losses
    written = (folder / "logs/metrics.csv").read_text("utf-8")
    assert str(losses[0])[:6] in written
    assert recorder.finished == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own dependencies
def test_tensorboard_reads_what_a_training_has_written(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    mapping = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["size"],
        "out": str(tmp_path / "out"),
        "training": {"steps": 4},
        "train_examples": 16,
        "validation_examples": 8,
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
        "logger": "tensorboard",
    }
    folder = train(config.parse(TrainConfig, mapping, "test")).folder
    (file,) = folder.rglob("events.out.tfevents*")
    events = accumulator.EventAccumulator(str(file.parent)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
    assert all(event.value > 0 for event in events.Scalars("loss"))
