"""One file more is all that a new thing takes: each is written outside saft, and named `module:Name` in a config.

Every file below is a throw-away example, as short as can be, of what a user may add. One experiment and one merge
use them to the end; the reports, records and lists then tell of them by the names that the config gave them.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from saft.cli import main

FILES = {
    "one_task": '''
        from dataclasses import dataclass

        import torch
        from torch.nn import functional

        from saft.tasks import Metric, Task, classification
        from saft.tasks.table import TableConfig, read
        from saft.tasks.text_reader import BoundTextTask, TextReader


        @dataclass(frozen=True)
        class IsLong(Task):
            """Tell long texts from short ones."""

            data: TableConfig
            """The texts; their labels are not looked at."""
            words: int = 5
            """A long text has at least this many."""

            def bind(self, name, model, where, device="cpu"):
                reader = TextReader.of(model, 16, "mean", where)
                return Bound(self, name, model, where, torch.device(device), reader)

            def rows(self, where):
                return read(self.data, ["red", "blue", "green"], False, where)


        @dataclass(frozen=True)
        class Bound(BoundTextTask[IsLong]):
            outputs = ("short", "long")
            metric = Metric("accuracy", "%")

            def loss(self, model, batch):
                return functional.cross_entropy(model(batch.inputs), batch.labels)

            def outcomes(self, model, examples, batch_size=64):
                return classification.outcomes(model, examples, 2, "accuracy", batch_size)

            def _examples(self, rows, training):
                labels = torch.tensor([int(len(text.split()) >= self.task.words) for text, _ in rows])
                return self.reader.examples([text for text, _ in rows], labels)
        ''',
    "one_perturbation": '''
        from dataclasses import dataclass

        from saft.optim.perturbations.base import Perturbation


        @dataclass(frozen=True)
        class Raw(Perturbation):
            """The gradient itself, rho times; its norm is left as it is."""

            def displace(self, slots, rho):
                norm = slots.norm(slots.buffers)
                slots.ascend(norm.new_tensor(rho))
                return norm
        ''',
    "one_penalty": '''
        from dataclasses import dataclass

        from saft.penalties import Penalty


        @dataclass(frozen=True)
        class Sparse(Penalty):
            """The sum of the magnitudes of the weights."""

            of_weights = True

            def bind(self, trunk, setting):
                return self

            def loss(self, trunk, step):
                return self.strength * sum(weight.abs().sum() for weight in trunk.parameters())
        ''',
    "one_parametrization": '''
        from dataclasses import dataclass

        from saft.parametrizations.parametrization import Parametrization, train_only


        @dataclass(frozen=True)
        class Biases(Parametrization):
            """The biases are trained, and nothing else."""

            def wrap(self, trunk, losses):
                train_only(trunk, {name for name, _ in trunk.named_parameters() if name.endswith(".bias")})
        ''',
    "one_averaging": '''
        from dataclasses import dataclass

        from saft.trajectory import Averaging


        @dataclass(frozen=True)
        class Even(Averaging):
            """Every second step counts half."""

            def share(self, step, steps):
                return 1.0 if step == 1 else 0.5 * (step % 2 == 0)
        ''',
    "one_method": '''
        from dataclasses import dataclass

        from saft.merging.method import Elementwise, parameter


        @dataclass(frozen=True, kw_only=True)
        class Middle(Elementwise):
            """Takes the middle of the smallest and the greatest entry of each coordinate."""

            to_greatest: float = parameter(0.5, "where between the two", at_least=0, at_most=1)

            formula = "θ = θ0 + λ (min + (max - min) p)"
            card_template = "the point {to_greatest} of the way from the smallest to the greatest entry"
            source = "nobody"
            scaling = 1.0
            scaling_grid = (0.5, 1.0)

            def steps(self, tasks, count):
                yield from ()
                return lambda block: block.task_vectors.amin(0).lerp(block.task_vectors.amax(0), self.to_greatest)
        ''',
    "one_output": '''
        from dataclasses import dataclass

        from saft.merging.outputs.output import Output, Written
        from saft.merging.stream import engine


        @dataclass(frozen=True)
        class Sums(Output):
            """A file with the sum of each merged tensor."""

            digits: int = 3
            is_model = False

            def bytes(self, plan):
                return 100 * len(plan.merged)

            def write(self, plan, folder, progress=None):
                sums = ((name, vector.sum().item()) for name, vector in engine.stream(plan, progress))
                lines = [f"{name} {value:.{self.digits}f}" for name, value in sums]
                (folder / "sums.txt").write_text("\\n".join(lines))
                return Written(summary=f"{len(lines)} sums")
        ''',
    "one_measure_of_weights": '''
        from saft.interference.quantity import Quantity
        from saft.interference.weights import WeightMeasure


        class Moved(WeightMeasure):
            """How many entries of a task vector are not zero."""

            quantities = {"moved": Quantity("entries that fine-tuning moved", per="task", decimals=0)}

            def sums(self, block):
                return (block != 0).sum(dim=1)

            def values(self, sums):
                return {"moved": sums}
        ''',
    "one_measure_of_the_loss": '''
        from dataclasses import dataclass

        from saft.interference.loss import LossMeasure
        from saft.interference.quantity import Quantity


        @dataclass(frozen=True)
        class Scaled(LossMeasure):
            """The loss, so many times."""

            times: float = 2.0
            quantities = {"scaled": Quantity("the loss, times a number", unit="nats", per="task")}

            def values(self, module, loss, batches, parameters=None):
                return {"scaled": self.times * sum(loss(batch).item() for batch in batches) / len(batches)}
        ''',
    "one_executor": '''
        from saft.experiment.executors import Executor
        from saft.experiment.stages import run_cell
        from saft.progress import note


        class Backwards(Executor):
            """The last cell first, each from the experiment's folder, as another machine would do it."""

            def __call__(self, session, cells, tell):
                for cell in reversed(cells):
                    note(f"now {cell}")
                    run_cell(session.folder.path, str(cell), tell)
        ''',
}
ARM = ("one_perturbation:Raw", "one_penalty:Sparse", "one_parametrization:Biases", "one_averaging:Even")
MOST_LINES = 45
"""That any of the examples takes, with its imports."""


def saft(*words: str | Path) -> None:
    """Run the command line; it must end well."""
    assert main([str(word) for word in words]) == 0


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder."""
    return load_file(folder / "model.safetensors")


def written(file: Path, content: dict[str, Any]) -> Path:
    """Return the file, with a config in it."""
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder of the examples, from which modules are imported."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(inspect.cleandoc(text) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def experiment(outside: Path, tiny_model: Path, tiny_tasks: dict[str, Any], tmp_path_factory: Any) -> Path:
    """Run an experiment in which everything comes from outside, and return its folder."""
    folder = tmp_path_factory.mktemp("one-file-more")
    config = {
        "out": str(folder / "run"),
        "model": {"path": str(tiny_model)},
        "tasks": {
            "colour": tiny_tasks["colour"],
            "length": {"kind": "one_task:IsLong", "words": 6, "data": tiny_tasks["colour"]["data"]},
        },
        "arms": {
            "plain": {},
            "outside": {
                "perturbation": {"name": "one_perturbation:Raw", "rho": 0.02},
                "penalty": {"name": "one_penalty:Sparse", "strength": 1e-5},
                "parametrization": {"name": "one_parametrization:Biases"},
                "averaging": {"name": "one_averaging:Even"},
            },
        },
        "training": {"steps": 2, "batch_size": 4},
        "merges": {"one_method:Middle": {"parameters": {"to_greatest": 0.25}}},
        "executor": "one_executor:Backwards",
        "validation_examples": 8,
        "test_examples": 8,
        "sharpness_examples": 4,
        "keep": ["experts", "merges"],
    }
    saft("run", written(folder / "run.yaml", config))
    return folder / "run"


@pytest.mark.slow
def test_the_experiment_tells_of_everything_by_its_name(experiment: Path) -> None:
    results = json.loads((experiment / "results.json").read_text())
    arm, page = json.dumps(results["arms"]["outside"]), (experiment / "report.html").read_text()
    assert results["protocol"]["tasks"]["length"]["kind"] == "one_task:IsLong"
    assert "one_method:Middle" in page
    for name in ARM:
        assert name in arm
        assert name in page


def test_a_checkpoint_records_how_it_was_trained_and_is_what_was_asked_for(
    experiment: Path, tiny_model: Path
) -> None:
    expert = experiment / "experts/all/outside/seed0/length"
    record = json.loads((expert / "saft.json").read_text())
    assert record["tasks"]["length"]["kind"] == "one_task:IsLong"
    assert all(name in json.dumps(record["config"]["training"]) for name in ARM)
    assert (expert / "heads/length.safetensors").is_file()
    before, after = tensors(tiny_model), tensors(expert)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_a_merge_goes_by_its_method_into_its_output(
    experiment: Path, tiny_model: Path, tmp_path: Path
) -> None:
    experts = experiment / "experts/all/outside/seed0"
    config = {
        "method": "one_method:Middle",
        "parameters": {"to_greatest": 1.0},
        "base": str(tiny_model),
        "models": {task: str(experts / task) for task in ("colour", "length")},
        "output": {"name": "one_output:Sums", "digits": 6},
    }
    saft("merge", written(tmp_path / "merge.yaml", config), tmp_path / "out")
    record = json.loads((tmp_path / "out/saft.json").read_text())
    assert record["method"] == "one_method:Middle"
    base, *merged = (tensors(folder) for folder in (tiny_model, experts / "colour", experts / "length"))
    name = "encoder.layer.0.output.dense.bias"
    greatest = torch.stack([model[name] - base[name] for model in merged]).amax(0)
    sums = dict(line.split() for line in (tmp_path / "out/sums.txt").read_text().splitlines())
    assert float(sums[name]) == pytest.approx(greatest.sum().item(), abs=2e-6)


def test_measures_are_made_of_ones_own_and_others(
    experiment: Path, tiny_model: Path, tiny_tasks: dict[str, Any], tmp_path: Path
) -> None:
    weights, loss = "one_measure_of_weights:Moved", "one_measure_of_the_loss:Scaled"
    experts = experiment / "experts/all/outside/seed0"
    config = {
        "base": str(tiny_model),
        "checkpoints": {task: str(experts / task) for task in ("colour", "length")},
        "measures": [weights, {"name": loss, "times": 3}, "sharpness"],
        "tasks": {"length": {"kind": "one_task:IsLong", "data": tiny_tasks["colour"]["data"]}},
        "examples": 4,
        "out": str(tmp_path / "measured.json"),
    }
    saft("measure", written(tmp_path / "measure.yaml", config))
    measured = json.loads((tmp_path / "measured.json").read_text())["measured"]
    before, after = tensors(tiny_model), tensors(experts / "length")
    assert measured["moved"]["length"] == sum(int((before[name] != after[name]).sum()) for name in after)
    for task in ("colour", "length"):
        assert measured["scaled"][task] == pytest.approx(3 * measured["loss"][task], rel=1e-5)


def test_a_checkpoint_is_evaluated_on_a_task_of_ones_own_config_only(
    experiment: Path, tiny_tasks: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may come from anybody: what it names outside saft is not imported."""
    expert = experiment / "experts/all/outside/seed0/length"
    task = {"kind": "one_task:IsLong", "words": 6, "data": tiny_tasks["colour"]["data"]}
    config = {"checkpoints": [str(expert)], "examples": 8}
    saft("evaluate", written(tmp_path / "own.yaml", config | {"tasks": {"length": task}}))
    assert "length" in capsys.readouterr().out
    assert main(["evaluate", str(written(tmp_path / "its.yaml", config))]) == 2
    assert "code from elsewhere is only taken from your own config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "name", "told"),
    [
        ("tasks", "one_task:IsLong", "A long text has at least this many."),
        ("methods", "one_method:Middle", "where between the two"),
        ("arms", "one_perturbation:Raw", "its norm is left as it is"),
        ("arms", "one_penalty:Sparse", "The sum of the magnitudes"),
        ("arms", "one_parametrization:Biases", "and nothing else"),
        ("arms", "one_averaging:Even", "Every second step"),
        ("measures", "one_measure_of_weights:Moved", "entries that fine-tuning moved"),
        ("measures", "one_measure_of_the_loss:Scaled", "the loss, times a number"),
    ],
)
def test_the_lists_tell_its_keys(
    outside: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str, told: str
) -> None:
    saft(verb, name)
    shown = capsys.readouterr().out
    assert shown.startswith(f"{name}: ")
    assert told in shown


@pytest.mark.parametrize("name", FILES)
def test_it_is_one_short_file(outside: Path, name: str) -> None:
    assert len((outside / f"{name}.py").read_text().splitlines()) <= MOST_LINES
