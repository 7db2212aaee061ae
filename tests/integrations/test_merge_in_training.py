"""A training with merges in between is the training without, and what is evaluated is the merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import saft
from saft.errors import Note, UserError
from saft.integrations import lightning, transformers
from saft.integrations.merge_in_training import MergeWith

pytestmark = pytest.mark.slow  # trainings

DATA = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        y = self.layers(x).squeeze(-1)
        return {"loss": (y if labels is None else y - labels).square().mean(), "logits": y}


def other_of(base: nn.Module) -> Network:
    other = copy.deepcopy(base)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1
    return other


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


def trainer_of(folder: Path, **options: Any) -> Trainer:
    """Return a trainer of four steps, which saves nothing."""
    rows = [{"x": row, "labels": 1.0} for row in DATA]
    arguments = TrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **options,
    )
    return Trainer(Network(), arguments, train_dataset=rows, eval_dataset=rows)


def test_everything_is_put_back_also_after_an_exception() -> None:
    base = Network()
    other, model = other_of(base), other_of(base).train()
    model.layers[1].eval()
    before, random = state(model), torch.get_rng_state()
    expected = state(saft.merge_models(base, {"current": model, "b": other}, "average"))

    def evaluate() -> None:
        with MergeWith(base, {"b": other}, "average").in_place_of(model):
            assert same(state(model), expected)
            assert not any(module.training for module in model.modules())
            torch.rand(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert same(state(model), before)
    assert model.training
    assert not model.layers[1].training
    assert torch.equal(torch.get_rng_state(), random)


def test_the_adapters_of_a_peft_model_are_merged_and_off_meanwhile() -> None:
    import peft

    base = Network()
    settings = peft.LoraConfig(r=2, target_modules=["layers.0"], init_lora_weights=False)
    model = peft.PeftModel(copy.deepcopy(base), settings, "one")
    other = other_of(base)
    merged = saft.merge_models(base, {"current": model, "b": other}, "average").eval()
    expected = merged(DATA)["logits"]
    with MergeWith(base, {"b": other}, "average").in_place_of(model):
        assert torch.equal(model(DATA)["logits"], expected)


def test_adapters_within_a_module_are_off_and_stay_as_trainable_as_they_were() -> None:
    import peft

    base = Network()
    settings = peft.LoraConfig(r=2, target_modules=["layers.0"], init_lora_weights=False)
    inner = peft.PeftModel(copy.deepcopy(base), settings, "one")
    model = nn.ModuleDict({"inner": inner, "beside": nn.Linear(1, 1)})
    inner.layers[0].lora_A.one.weight.requires_grad_(False)  # as LoRA-FA has it
    before = [weight.requires_grad for weight in model.parameters()]
    whole = nn.ModuleDict({"inner": base, "beside": copy.deepcopy(model["beside"])})
    other = copy.deepcopy(whole)
    merged = saft.merge_models(whole, {"current": model, "b": other}, "average")["inner"].eval()
    expected = merged(DATA)["logits"]
    assert not torch.equal(expected, base.eval()(DATA)["logits"])
    with MergeWith(whole, {"b": other}, "average").in_place_of(model):
        assert torch.equal(model["inner"](DATA)["logits"], expected)
    assert [weight.requires_grad for weight in model.parameters()] == before
    assert not torch.equal(inner.eval()(DATA)["logits"], base(DATA)["logits"])


class ScheduleFree(torch.optim.SGD):
    """As those of the package schedulefree: in evaluation the weights are their mean over the steps."""

    def train(self) -> None:
        self._move(to_mean=False)

    def eval(self) -> None:
        self._move(to_mean=True)

    @torch.no_grad()
    def _move(self, to_mean: bool) -> None:
        for group in self.param_groups:
            for weight in group["params"] if group["train_mode"] is to_mean else ():
                weight.mul_(1 / 3).add_(0.01) if to_mean else weight.sub_(0.01).mul_(3)
            group["train_mode"] = not to_mean


def test_of_a_schedule_free_optimizer_the_weights_of_evaluation_are_merged() -> None:
    base, model = Network(), Network()
    other, mean = other_of(base), copy.deepcopy(model)
    optimizer = ScheduleFree(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["train_mode"] = True
    before = state(model)
    with torch.no_grad():
        for weight in mean.parameters():
            weight.mul_(1 / 3).add_(0.01)
    expected = state(saft.merge_models(base, {"current": mean, "b": other}, "average"))
    with MergeWith(base, {"b": other}, "average").in_place_of(model, [optimizer]):
        optimizer.eval()  # as the Hugging Face Trainer does
        assert same(state(model), expected)
    assert same(state(model), before)
    assert optimizer.param_groups[0]["train_mode"]


def test_weights_of_another_dtype_are_told_before_the_training() -> None:
    base = Network()
    with pytest.raises(UserError, match=r"is bfloat16, the merged one float32; write dtype='bfloat16'"):
        MergeWith(base, {"b": other_of(base)}, "average").check(Network().bfloat16())


@pytest.mark.parametrize("method", ["emr", "fisher"])
def test_a_method_that_needs_folders_is_told_before_the_training(method: str) -> None:
    base = Network()
    with pytest.raises(UserError, match=f"method: '{method}' .*; merge folders by it"):
        MergeWith(base, {"b": other_of(base)}, method).check(base)


def test_whole_numbers_that_differ_are_told_before_the_training_and_not_in_it() -> None:
    base, model, other = (nn.Linear(2, 2) for _ in range(3))
    for at, each in enumerate((base, model, other)):
        each.register_buffer("mask", torch.tensor([at]))
    merge = MergeWith(base, [other], "average")  # type: ignore[arg-type]
    with pytest.warns(Note, match="'mask'"):
        merge.check(model)
    with merge.in_place_of(model):
        pass


def test_the_others_may_be_a_list_and_not_a_single_model() -> None:
    base = Network()
    MergeWith(base, [other_of(base)], "average").check(base)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="others: is a single model, a Network; give"):
        MergeWith(base, other_of(base), "average")  # type: ignore[arg-type]


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.network(batch)["loss"]
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers", "ignore:.*resuming")
def test_a_resumed_fit_does_not_merge_again_what_it_begins_with(tmp_path: Any) -> None:
    base, steps = Network(), list[int]()
    other = other_of(base)

    def fit(max_steps: int, checkpoint: str | None = None, figures: Any = None) -> L.Trainer:
        def evaluate(model: nn.Module) -> Any:
            steps.append(trainer.global_step)
            return {} if figures is None else figures

        trainer = L.Trainer(
            max_steps=max_steps,
            accumulate_grad_batches=2,
            max_epochs=-1,
            callbacks=[lightning.EvaluateMerge(base, {"b": other}, "average", evaluate, every=2)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(DATA, batch_size=2), ckpt_path=checkpoint)
        return trainer

    fit(2).save_checkpoint(tmp_path / "two.ckpt")
    fit(6, str(tmp_path / "two.ckpt"))
    assert steps == [2, 4, 6]
    with pytest.raises(UserError, match=r"evaluate: must return \{name: figure\}, but returned 0\.5"):
        fit(2, figures=0.5)
    with pytest.raises(UserError, match=r"evaluate: must return \{name: figure\}, but returned \{'a': 'b'\}"):
        fit(2, figures={"a": "b"})
    with pytest.raises(UserError, match=r"evaluate: is 3; give a function of the model that returns"):
        lightning.EvaluateMerge("base", {}, "average", 3)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers")
def test_lightning_logs_the_figures_of_the_merge_and_trains_as_without() -> None:
    base, seen = Network(), []
    other = other_of(base)

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append(float(model(DATA)["loss"]))
        return {"loss": seen[-1]}

    def fit(*callbacks: L.Callback) -> tuple[L.Trainer, dict[str, Tensor]]:
        torch.manual_seed(1)
        module = Module()
        trainer = L.Trainer(
            max_steps=4,
            accumulate_grad_batches=2,
            max_epochs=-1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        torch.manual_seed(1)
        trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=4))
        return trainer, state(module)

    callback = lightning.EvaluateMerge(base, {"b": other}, "average", evaluate, every=2, module="network")
    trainer, weights = fit(callback)
    assert len(seen) == 2
    assert float(trainer.logged_metrics["merged/loss"]) == pytest.approx(seen[-1])
    assert same(weights, fit()[1])
    wrong = lightning.EvaluateMerge(base, {"b": other}, "teis", evaluate)
    with pytest.raises(UserError, match="unknown merge method 'teis'"):
        fit(wrong)
    misspelt = lightning.EvaluateMerge(base, {"b": other}, "average", evaluate, module="netwrok")
    with pytest.raises(UserError, match=r"module: Module has no 'netwrok'; did you mean 'network'"):
        fit(misspelt)
    for every, problem in (
        (0, "must be at least 1, but is 0"),
        (2.5, "must be a whole number"),
        ("2", "must be"),
    ):
        with pytest.raises(UserError, match=f"every: {problem}"):
            lightning.EvaluateMerge(base, {"b": other}, "average", evaluate, every=every)


def test_the_hugging_face_trainer_evaluates_the_merge_and_trains_as_without(tmp_path: Any) -> None:
    base = Network()
    other = other_of(base)

    def train(merge: bool) -> tuple[Trainer, dict[str, Tensor]]:
        trainer = trainer_of(tmp_path, logging_strategy="no")
        if merge:
            trainer.add_callback(transformers.EvaluateMerge(trainer, base, {"b": other}, "average", every=2))
        trainer.train()
        return trainer, state(trainer.model)

    trainer, weights = train(merge=True)
    logged = [entry["eval_merged_loss"] for entry in trainer.state.log_history if "eval_merged_loss" in entry]
    assert len(logged) == 2
    merged = saft.merge_models(base, {"current": trainer.model, "b": other}, "average").eval()
    assert logged[-1] == pytest.approx(merged(DATA, torch.ones(16))["loss"].item(), rel=1e-5)
    assert same(weights, train(merge=False)[1])
    with pytest.raises(UserError, match=r"models.b: <Linear in memory> shares no tensor"):
        transformers.EvaluateMerge(trainer, base, {"b": nn.Linear(2, 2)}, "average")
    with pytest.raises(UserError, match="others: 'current' is the model that is trained"):
        transformers.EvaluateMerge(trainer, base, {"current": other}, "average")
    with pytest.raises(UserError, match=r"every: must be a whole number of at least 1, but is 2\.5"):
        transformers.EvaluateMerge(trainer, base, {"b": other}, "average", every=2.5)
    trainer.eval_dataset = None
    with pytest.raises(UserError, match="trainer: has no eval_dataset"):
        transformers.EvaluateMerge(trainer, base, {"b": other}, "average")


def test_the_trainers_own_evaluations_and_logs_are_not_left_out(tmp_path: Any) -> None:
    base = Network()

    def train(merge: bool) -> list[dict[str, Any]]:
        trainer = trainer_of(tmp_path, logging_steps=2, eval_strategy="steps", eval_steps=2)
        if merge:
            others = {"b": other_of(base)}
            trainer.add_callback(transformers.EvaluateMerge(trainer, base, others, "average", every=2))
        trainer.train()
        return [
            {key: entry[key] for key in ("loss", "eval_loss", "step") if key in entry}
            for entry in trainer.state.log_history
            if not entry.keys() & {"eval_merged_loss", "train_runtime"}
        ]

    assert train(merge=True) == train(merge=False)
