"""LoRA: peft reads what was written, in models whose matrices lie either way; what it needs is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from saft import tasks
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.files.checkpoint import read_card, tensor_headers
from saft.model_config import ModelConfig
from saft.models import load_trunk
from saft.parametrizations import parametrization
from saft.parametrizations.lora import LoRA
from saft.train import TrainConfig, train
from saft.training.module import TaskModule
from saft.training.options import TrainingOptions


def wrapped(folder: Path, kind: Any, **options: Any) -> Any:
    trunk = load_trunk(ModelConfig(str(folder)), kind=kind)
    LoRA(**options).wrap(trunk, lambda count: iter(()))
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return trunk


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=torch.tensor([[5, 6, 7, 8]]))[0]
    return found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
@pytest.mark.parametrize("options", [{"rank": 2, "alpha": 3}, {"rank": 3}])
@pytest.mark.parametrize("name", ["tiny_model", "tiny_llama", "tiny_gpt2"])
def test_peft_and_load_trunk_read_the_same_model(
    name: str, options: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(name)
    kind = transformers.AutoModel if name == "tiny_model" else transformers.AutoModelForCausalLM
    trunk = wrapped(base, kind, **options)
    assert not any("lm_head" in key for key in trunk.state_dict() if "lora" in key)
    LoRA(**options).save(trunk, base, tmp_path, str(base))
    expected = outputs(trunk)
    by_peft = peft.PeftModel.from_pretrained(kind.from_pretrained(base), tmp_path)
    torch.testing.assert_close(outputs(by_peft), expected, rtol=1e-5, atol=1e-5)
    by_name: Any = peft.AutoPeftModel if name == "tiny_model" else peft.AutoPeftModelForCausalLM
    torch.testing.assert_close(outputs(by_name.from_pretrained(tmp_path)), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        outputs(load_trunk(ModelConfig(str(tmp_path)), kind=kind)), expected, rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(outputs(kind.from_pretrained(base)), expected, atol=1e-3)


def test_the_folder_of_an_expert_is_evaluated_and_says_what_it_is(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    options = TrainingOptions(steps=3, learning_rate=3e-3, parametrization={"name": "lora", "rank": 2})
    settings = TrainConfig(
        model=ModelConfig(str(tiny_model)),
        task=tiny_tasks["colour"] | {"head": "linear"},
        out=str(tmp_path / "out"),
        name="colour",
        training=options,
        train_examples=24,
        validation_examples=12,
        trainer={"accelerator": "cpu"},
    )
    result = train(settings)
    found = evaluate(EvaluateConfig([str(result.folder)], split="validation", examples=12))
    assert found.scores[str(result.folder)]["colour"].value == pytest.approx(result.validation.value)
    card = read_card(result.folder)
    assert card["library_name"] == "peft"
    text = (result.folder / "README.md").read_text()
    assert "LoRA adapter, which peft loads. The task's head is in `heads/colour.safetensors`" in text
    assert not list(result.folder.glob("model*"))


def test_sam_in_weight_space_is_sam_of_the_full_change(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Against explicit matrices: the dense model's own gradient, and the chain rule to the factors."""
    rank, scale, rate, rho = 2, 1.5, 0.1, 0.2
    lora = {"name": "lora", "rank": rank, "alpha": 3, "rho_space": "weights"}
    options = TrainingOptions(
        steps=3,
        schedule="constant",
        learning_rate=rate,
        weight_decay=0,
        gradient_clip=None,
        optimizer={"name": "torch.optim:SGD"},
        perturbation={"name": "sam", "rho": rho, "every": 2},
        parametrization=lora,
    )
    mapping = tiny_tasks["colour"]
    base = ModelConfig(str(tiny_model))
    settings = TrainConfig(base, mapping, str(tmp_path / "out"), "colour", options, train_examples=24)
    written = load_file(train(settings).folder / "adapter_model.safetensors")

    task = tasks.build("colour", mapping, "t").bind("colour", base, "t")
    examples = task.examples(tasks.Limits(24, None, 0, 0)).train
    torch.manual_seed(0)
    started = TaskModule(task.model(task.load_trunk()), task, examples, options, seed=0).model.trunk
    factors = {n: p.detach().clone() for n, p in started.named_parameters() if ".lora_" in n}
    layers = sorted({name.partition(".lora_")[0] for name in factors})
    model = task.model(task.load_trunk()).train()
    matrices = {layer: model.trunk.get_submodule(layer).weight for layer in layers}
    start = {layer: matrix.detach().clone() for layer, matrix in matrices.items()}
    order = examples.training_order(options.batch_size, 3, 0)

    def gradients(step: int, epsilon: dict[str, Tensor]) -> dict[str, Tensor]:
        for layer, matrix in matrices.items():
            a, b = (factors[f"{layer}.lora_{which}.default.weight"] for which in "AB")
            matrix.data = start[layer] + scale * b @ a + epsilon.get(layer, 0)
        torch.manual_seed(step * 1009)  # of dropout
        batch = examples.training_batch(order[step], step, order.seed)
        loss = task.loss(model, batch)
        found = torch.autograd.grad(loss, list(matrices.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(layers, found, strict=True))

    for step in range(3):
        found = gradients(step, {})
        if step % 2 == 0:
            norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
            found = gradients(step, {layer: rho * g / norm for layer, g in found.items()})
        for layer, g in found.items():
            a, b = (factors[f"{layer}.lora_{which}.default.weight"] for which in "AB")
            change = rate * scale * (b.T @ g), rate * scale * (g @ a.T)
            a.sub_(change[0])
            b.sub_(change[1])
    for name, value in factors.items():
        in_file = written["base_model.model." + name.replace(".default", "")]
        torch.testing.assert_close(in_file, value, rtol=1e-4, atol=1e-6)


def test_weight_space_is_of_plain_sam() -> None:
    lora = {"name": "lora", "rho_space": "weights"}
    with pytest.raises(
        UserError, match=r"rho_space: weights goes with perturbation: \{name: sam\}, not asam"
    ):
        TrainingOptions(perturbation={"name": "asam"}, parametrization=lora)
    TrainingOptions(parametrization=lora)
    penalized = {"penalty": {"name": "l2_base"}, "parametrization": lora}
    TrainingOptions(**penalized).check_options()
    with pytest.raises(UserError, match="l2_base looks at the weights that are trained, the factors"):
        TrainingOptions(**penalized, perturbation={"name": "sam"})


def test_an_adapter_without_its_base_is_told(tiny_model: Path, tmp_path: Path) -> None:
    trunk = wrapped(tiny_model, None, rank=2)
    LoRA(rank=2).save(trunk, tiny_model, tmp_path, str(tiny_model))
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    for named, message in ((None, "does not name the adapter's base"), ("./gone", "there is no './gone'")):
        file.write_text(json.dumps(settings | {"base_model_name_or_path": named}))
        with pytest.raises(UserError, match=f"base_model_name_or_path: {message}"):
            load_trunk(ModelConfig(str(tmp_path)))
    read = load_trunk(ModelConfig(f"{tiny_model}+{tmp_path}"))  # whatever the adapter says
    torch.testing.assert_close(outputs(read), outputs(trunk), rtol=1e-5, atol=1e-5)


def test_targets_that_are_not_there_are_told() -> None:
    trunk = nn.ModuleDict({"query": nn.Linear(2, 2)})
    with pytest.raises(
        UserError, match="no linear layer of ModuleDict is called 'qery'; did you mean 'query'"
    ):
        LoRA(targets=["qery"]).wrap(trunk, lambda count: iter(()))


def test_a_rank_beyond_that_of_every_matrix_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("saft.progress._noted", set())
    LoRA(rank=3).wrap(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), lambda count: iter(()))
    assert not capsys.readouterr().err
    LoRA(rank=4).wrap(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), lambda count: iter(()))
    assert "rank: 4 is more than the rank that a matrix here can have, 3" in capsys.readouterr().err


def test_what_peft_does_not_adapt_is_told_in_one_line() -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 2}
    settings = transformers.MambaConfig(**sizes)
    message = (
        r"^parametrization: targets: peft does not adapt 'layers\.0\.mixer\.out_proj' of MambaModel as a"
    )
    with pytest.raises(UserError, match=message):
        LoRA(rank=2, targets=["out_proj"]).wrap(transformers.MambaModel(settings), lambda count: iter(()))
    LoRA(rank=2, targets=["in_proj"]).wrap(transformers.MambaModel(settings), lambda count: iter(()))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.extras.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs peft, which is not installed; pip install 'merge-saft\[peft\]'"
    ):
        parametrization("lora")


def test_a_penalty_on_weights_is_refused_where_others_are_climbed() -> None:
    climbing = {"name": "lora", "rho_space": "weights"}
    sam, l2_base = {"name": "sam", "rho": 0.01}, {"name": "l2_base"}
    with pytest.raises(
        UserError, match="penalty: l2_base looks at the weights that are trained, the factors"
    ):
        TrainingOptions(penalty=l2_base, parametrization=climbing, perturbation=sam)
    TrainingOptions(penalty=l2_base, parametrization={"name": "lora"}, perturbation=sam)
    TrainingOptions(penalty={"name": "drift"}, parametrization=climbing, perturbation=sam)


@pytest.mark.parametrize("targets", [["query", "value"], None])
def test_what_will_be_saved_is_known_before(
    tiny_model: Path, tmp_path: Path, targets: list[str] | None
) -> None:
    """A disk is refused only where it is too small: an adapter takes far less than its base."""
    shapes = {name: tuple(header.shape) for name, header in tensor_headers(tiny_model).items()}
    expected = LoRA(rank=1, targets=targets).saved_weights(shapes)
    trunk = wrapped(tiny_model, None, rank=1, targets=targets)
    LoRA(rank=1, targets=targets).save(trunk, tiny_model, tmp_path, str(tiny_model))
    written = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert written == expected if targets else written <= expected
    assert expected < sum(math.prod(shape) for shape in shapes.values()) / 4


def test_layers_that_no_plain_adapter_changes_are_left_out() -> None:
    """peft takes the layers of a shared expert for the experts', and kernels of Mamba read past an adapter."""
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2}
    attention = {"q_lora_rank": 4, "kv_lora_rank": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "v_head_dim": 4}
    experts = {"n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1}
    settings = transformers.DeepseekV3Config(
        **sizes, **attention, **heads, **experts, intermediate_size=16, moe_intermediate_size=8
    )
    mixture = transformers.DeepseekV3Model(settings)
    parametrization("lora", rank=2).wrap(mixture, lambda count: iter(()))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in mixture.named_parameters()}
    assert {"q_a_proj", "q_b_proj", "kv_b_proj", "o_proj"} <= adapted
    assert not mixture.peft_config["default"].target_parameters  # type: ignore[index]
    trained = [name for name, parameter in mixture.named_parameters() if parameter.requires_grad]
    assert not [name for name in trained if ".mlp." in name]
    with pytest.raises(UserError, match=r"targets: peft does not adapt 'layers\.0\.mlp\.down_proj'"):
        parametrization("lora", targets=["down_proj"]).wrap(
            transformers.DeepseekV3Model(settings), lambda count: iter(())
        )
    mamba = transformers.MambaModel(transformers.MambaConfig(**sizes, state_size=4))
    parametrization("lora", rank=2).wrap(mamba, lambda count: iter(()))
    trained = [name for name, parameter in mamba.named_parameters() if parameter.requires_grad]
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == {
        "in_proj",
        "x_proj",
        "dt_proj",
    }
