from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from saft import config
from saft.errors import UserError
from saft.evaluate import evaluate
from saft.evaluate_config import EvaluateConfig
from saft.run import RunConfig, run
from saft.tasks import Limits
from saft.train import TrainConfig, train
from saft.training.module import TaskModule
from saft.training.optimizer import torch_optimizers, try_optimizer
from saft.training.options import TrainingOptions


class TowardsTheMean(torch.optim.SGD):
    """SGD that is evaluated at the mean of its weights, as schedule-free optimizers are."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay=weight_decay)
        self.trains = False

    def train(self) -> None:
        self.trains = True

    def eval(self) -> None:
        if self.trains:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data = self.state[parameter]["mean"].clone()
        self.trains = False

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        assert self.trains
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                count = state["count"] = state.get("count", 0) + 1
                mean = state.setdefault("mean", parameter.detach().clone())
                mean.lerp_(parameter.detach(), 1 / count)
        return loss


SETTINGS = {
    "training": {"steps": 6, "learning_rate": 1e-2, "schedule": "constant", "gradient_clip": None},
    "train_examples": 24,
}


def with_optimizer(settings: TrainConfig, **training: Any) -> TrainConfig:
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, **training))


def by_hand(settings: TrainConfig, optimizer_of: Any) -> dict[str, torch.Tensor]:
    """Return the weights after the same batches in a loop of torch alone."""
    from saft import tasks
    from saft.model_config import ModelConfig

    task = tasks.build("colour", settings.task, "t").bind("colour", ModelConfig(settings.model.path), "t")
    examples = task.examples(Limits(24, None, 0, 0)).train
    options = settings.training
    module = TaskModule(task.model(task.load_trunk()), task, examples, options, seed=0)
    module.train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if (p.ndim > 1) == matrix]} for matrix in (True, False)]
    groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
    optimizer = optimizer_of(groups)
    order = examples.training_order(options.batch_size, options.steps, 0)
    for step in range(options.steps):
        batch = examples.training_batch(order[step], step, order.seed)
        torch.manual_seed(step * 1009)
        optimizer.zero_grad()
        task.loss(module.model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: p.detach() for name, p in module.model.trunk.named_parameters()}


def test_it_steps_as_the_same_optimizer_in_a_loop_of_its_own(settings: TrainConfig) -> None:
    options = {"name": "torch.optim:SGD", "momentum": 0.9, "nesterov": True}
    changed = with_optimizer(settings, optimizer=options, weight_decay=0.1)
    written = load_file(train(changed).folder / "model.safetensors")
    wanted = by_hand(
        changed, lambda g: torch.optim.SGD(g, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1)
    )
    assert all(torch.equal(written[name], value) for name, value in wanted.items())
    assert "torch.optim:SGD (momentum 0.9, nesterov True)" in (Path(settings.out) / "README.md").read_text()


def test_one_that_averages_by_itself_trains_and_is_saved_as_it_says(settings: TrainConfig) -> None:
    name = f"{__name__}:TowardsTheMean"
    changed = with_optimizer(settings, optimizer={"name": name}, weight_decay=0.0)
    written = load_file(train(changed).folder / "model.safetensors")

    made: list[TowardsTheMean] = []

    def watched(groups: Any) -> TowardsTheMean:
        made.append(TowardsTheMean(groups, lr=1e-2))
        made[0].train()
        return made[0]

    last = {n: value.clone() for n, value in by_hand(changed, watched).items()}
    [optimizer] = made
    matrix = optimizer.param_groups[0]["params"][-1]
    mean = optimizer.state[matrix]["mean"]
    assert any(torch.equal(mean, value) for value in written.values())
    assert not all(torch.equal(written[n], value) for n, value in last.items())
    with pytest.raises(UserError, match="averages the weights by itself; leave out averaging and select"):
        config.parse(TrainingOptions, {"optimizer": {"name": name}, "select_steps": [2]}, "")


def test_an_interrupted_training_ends_with_the_same_bits(
    settings: TrainConfig, interrupted_after: Any
) -> None:
    options = {"name": "torch.optim:Adagrad", "lr_decay": 0.01}
    changed = dataclasses.replace(with_optimizer(settings, optimizer=options), checkpoint_every=2)
    whole = load_file(train(changed).folder / "model.safetensors")
    broken = dataclasses.replace(changed, out=changed.out + "-broken")
    with interrupted_after(3):
        train(broken)
    resumed = load_file(train(broken).folder / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.parametrize("name", sorted(torch_optimizers()))
def test_every_optimizer_of_torch_that_is_listed_can_take_a_step(name: str) -> None:
    try_optimizer(0.0, (0.9, 0.999), {"name": f"torch.optim:{name}"}, layer_decay=0.5)


class Matrices(torch.optim.SGD):
    """SGD that takes matrices alone, as torch.optim.Muon does, which an older torch has not."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        if any(parameter.ndim != 2 for group in self.param_groups for parameter in group["params"]):
            raise ValueError("only supports 2D parameters")


ATTENTION = {"parametrization": {"name": "attention"}}
MATRICES = {"optimizer": {"name": f"{__name__}:Matrices"}}


@pytest.mark.parametrize("name", ["full", "linearized"])
def test_an_optimizer_of_matrices_alone_is_refused_where_biases_are_trained(name: str) -> None:
    options = MATRICES | {"parametrization": {"name": name}}
    told = r"no vectors, such as the trunk's biases.*parametrization: \{name: attention}"
    with pytest.raises(UserError, match=told):
        config.parse(TrainingOptions, options, "f.yaml", "training")


@pytest.mark.parametrize("kind", ["text_classification", "image_classification", "text_regression"])
def test_an_optimizer_of_matrices_alone_is_refused_where_a_head_is_trained(
    kind: str, settings: TrainConfig
) -> None:
    task = {"kind": kind, "data": {"path": "csv", "text": "text", "label": "label"}}
    if kind == "image_classification":
        task["data"] = {"path": "imagefolder"}
    if kind != "text_regression":
        task |= {"labels": {"0": "no", "1": "yes"}, "head": "linear"}
    plain = dataclasses.asdict(settings) | {"task": task, "training": ATTENTION | MATRICES}
    told = (
        r"f.yaml: training.optimizer: .*no vectors, such as the bias of the head of task; .*head: zero_shot"
    )
    with pytest.raises(UserError, match=told):
        config.parse(TrainConfig, plain, "f.yaml")
    assert config.parse(TrainConfig, plain | {"task": settings.task}, "f.yaml").training.optimizer


def test_in_an_experiment_every_arm_and_its_first_round_are_told(settings: TrainConfig) -> None:
    linear = settings.task | {"head": "linear"}
    arms = {
        "plain": {},
        "muon": ATTENTION | MATRICES,
        "late": {"first_round": {"steps": 2} | ATTENTION | MATRICES, "start": {"method": "average"}},
    }
    plain = {"out": settings.out, "model": {"path": settings.model.path}, "arms": arms}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, plain | {"tasks": {"colour": settings.task, "size": linear}}, "f.yaml")
    assert [problem.partition(".optimizer: ")[0] for problem in caught.value.problems] == [
        "f.yaml: arms.muon",
        "f.yaml: arms.late",
    ]
    assert "such as the bias of the head of tasks.size" in str(caught.value)


@pytest.mark.parametrize("pattern", ["*LayerNorm*", "*bias"])
def test_what_only_the_model_knows_is_told_before_a_step(settings: TrainConfig, pattern: str) -> None:
    options = MATRICES | {"parametrization": {"name": "only", "tensors": ["*query.weight", pattern]}}
    with pytest.raises(UserError, match=r"no vectors, such as trunk\.\S+(bias|weight); train matrices"):
        train(with_optimizer(settings, **options))
    assert not list(Path(settings.out).parent.glob("*out*"))


def test_what_only_the_model_knows_is_told_before_an_experiment(settings: TrainConfig) -> None:
    some = MATRICES | {"parametrization": {"name": "only", "tensors": ["*query.*"]}}
    plain = {
        "out": settings.out,
        "model": {"path": settings.model.path},
        "tasks": {"colour": settings.task},
        "arms": {"adamw": {"steps": 2}, "muon": some | {"steps": 2}},
    }
    with pytest.raises(UserError, match=r"^arms\.muon\.optimizer: .* no vectors, such as encoder\S+bias"):
        run(config.parse(RunConfig, plain, "f.yaml"))
    assert not Path(settings.out).exists()


class OneRate(torch.optim.SGD):
    """SGD that finds out in a step that its groups have different learning rates, as Prodigy does."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if len({group["lr"] for group in self.param_groups}) > 1:
            raise RuntimeError("different learning rates are not supported")
        return super().step(closure)


def test_an_optimizer_of_one_learning_rate_is_refused_where_layers_have_their_own() -> None:
    options = {"optimizer": {"name": f"{__name__}:OneRate"}, "layer_decay": 0.9}
    with pytest.raises(
        UserError, match=r"layer_decay: .*OneRate takes one learning rate only; leave layer_de"
    ):
        config.parse(TrainingOptions, options, "f.yaml", "training")


class OneGroup(torch.optim.SGD):
    """SGD that has one group of parameters, as LBFGS does."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        if len(self.param_groups) > 1:
            raise ValueError("no parameter groups")


def test_an_optimizer_of_one_group_is_refused() -> None:
    with pytest.raises(UserError, match=r"training: optimizer: .*OneGroup takes no groups of param"):
        config.parse(TrainingOptions, {"optimizer": {"name": f"{__name__}:OneGroup"}}, "f.yaml", "training")


class NoDecay(torch.optim.SGD):
    """SGD without weight decay."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)


class Forgetful(torch.optim.SGD):
    """SGD that cannot take a second step."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if self.state:
            raise RuntimeError("lost")
        self.state["steps"] = 1
        return super().step(closure)


def test_a_second_step_is_tried_too() -> None:
    with pytest.raises(UserError, match="Forgetful cannot take a step: RuntimeError: lost"):
        config.parse(TrainingOptions, {"optimizer": {"name": f"{__name__}:Forgetful"}}, "")


class OwnRate(torch.optim.Optimizer):
    """Descends at the rate that it was made with, whatever a schedule says."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"weight_decay": weight_decay})

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return None


@pytest.mark.parametrize("layer_decay", [1, 0.5])
def test_an_optimizer_whose_rate_a_schedule_cannot_change_is_refused(layer_decay: float) -> None:
    options = {"optimizer": {"name": f"{__name__}:OwnRate"}, "layer_decay": layer_decay}
    with pytest.raises(
        UserError, match=r"optimizer: .*OwnRate does not keep its learning rate in its groups"
    ):
        config.parse(TrainingOptions, options, "f.yaml", "training")


class Drawing(torch.optim.SGD):
    """SGD that draws a random number a step."""

    drawn: ClassVar[list[float]] = []

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self.drawn.append(float(torch.rand(())))
        return super().step(closure)


def test_what_an_optimizer_draws_is_the_same_on_every_device(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although each draws dropout masks of its own: else they would end with different weights."""

    def drawn(rank: int) -> list[float]:
        Drawing.drawn.clear()
        monkeypatch.setattr(TaskModule, "global_rank", rank)
        changed = with_optimizer(settings, optimizer={"name": f"{__name__}:Drawing"}, steps=3)
        train(dataclasses.replace(changed, out=f"{settings.out}-{rank}"))
        return Drawing.drawn[-3:]  # those before were to try it

    first = drawn(0)
    assert first == drawn(1)
    assert len(set(first)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "parametrization",
    [{"name": "attention"}, {"name": "lora", "rank": 2}, {"name": "sparse", "density": 0.2, "examples": 2}],
    ids=lambda options: options["name"],
)
@pytest.mark.parametrize("optimizer", ["Matrices", "torch.optim:Muon"])
def test_an_optimizer_of_matrices_alone_trains_what_has_no_biases(
    settings: TrainConfig, parametrization: dict[str, Any], optimizer: str
) -> None:
    if optimizer == "torch.optim:Muon" and "Muon" not in torch_optimizers():
        pytest.skip("this torch has no Muon")
    name = f"{__name__}:Matrices" if optimizer == "Matrices" else optimizer
    options = {"optimizer": {"name": name}, "parametrization": parametrization, "steps": 2}
    config.parse(TrainingOptions, options, "")
    assert train(with_optimizer(settings, **options)).steps == 2


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimizer": {"name": "SGD"}}, "'SGD' is not module:Class; did you mean 'torch.optim:SGD'?"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer: `name` is missing"),
        ({"optimizer": {"name": "torch.optim:SDG"}}, "has no 'SDG'; did you mean 'torch.optim:SGD'?"),
        (
            {"optimizer": {"name": "torch.nn:Linear"}},
            "name: must be a subclass of torch.optim.optimizer.Optimizer, but is <class",
        ),
        ({"optimizer": {"name": "no_module:X"}}, "cannot import 'no_module'"),
        ({"optimizer": {"name": "torch.optim:SGD", "momentun": 1}}, "did you mean 'momentum'"),
        (
            {"optimizer": {"name": "torch.optim:SGD", "maximize": True}},
            "optimizer: maximize: the loss is to fall, and this climbs it; leave it out",
        ),
        ({"optimizer": {"name": "torch.optim:SGD", "momentum": -1}}, "Invalid momentum value"),
        (
            {"optimizer": {"name": "torch.optim:SGD", "lr": 1}},
            "lr: is set by saft; use training.learning_rate",
        ),
        ({"optimizer": {"name": f"{__name__}:NoDecay"}}, "has no weight decay; write weight_decay: 0"),
        ({"optimizer": {"name": "torch.optim:LBFGS"}}, "LBFGS wants a function that computes the loss"),
        ({"optimizer": {"name": "torch.optim:SparseAdam"}}, "cannot take a step: RuntimeError: SparseAdam"),
        ({"optimizer": {"name": "torch.optim:SGD"}, "betas": [0.8, 0.9]}, "betas: are AdamW's"),
        ({"optimizer": "torch.optim:SGD"}, "optimizer: must be a mapping; write {name: torch.optim:SGD}"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(training: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(TrainingOptions, training, "f.yaml", "training")
    assert message in str(caught.value)


def test_what_a_checkpoint_folder_names_is_not_imported(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(settings).folder
    manifest = json.loads((folder / "saft.json").read_text())
    manifest["config"]["training"]["optimizer"] = {"name": "evil_module:Evil"}
    (folder / "saft.json").write_text(json.dumps(manifest))
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    evaluate(EvaluateConfig(checkpoints=[str(folder)], examples=4))
    assert "evil_module" not in sys.modules
