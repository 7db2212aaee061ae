"""Models whose class has other names for its tensors than files have, as transformers 5 calls a ViT's."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel

import saft
from saft import MergeConfig
from saft.integrations.peft import merge_adapters
from saft.mixture import SmileLinear
from saft.stored_names import stored_names
from tests.tasks import tiny_vision

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)  # peft asks for it


def load(folder: Path) -> nn.Module:
    model: nn.Module = AutoModel.from_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a base, two adapters of it as peft saves them, and each merged into the base by peft."""
    place = tmp_path_factory.mktemp(request.param)
    made = {"base": tiny_vision.model(request.param, place / "base")}
    torch.manual_seed(0)
    for name in ("a", "b"):
        model = load(made["base"])
        targets = [at for at, module in model.named_modules() if isinstance(module, nn.Linear)]
        settings = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        adapted = peft.get_peft_model(model, settings)  # type: ignore[arg-type]
        adapted.save_pretrained(place / name)
        adapted.merge_and_unload().save_pretrained(place / f"{name}-whole")
        made |= {name: place / name, f"{name}-whole": place / f"{name}-whole"}
    return made


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, Tensor]:
    a, b = (load_file(folders[name] / "model.safetensors") for name in ("a-whole", "b-whole"))
    return {name: (a[name] + b[name]) / 2 for name in a}


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_adapters_of_peft_find_the_tensors_of_files(
    folders: dict[str, Path], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    given = {name: str(folders[name]) for name in ("a", "b")}
    saft.merge(MergeConfig(method="average", base=str(folders["base"]), models=given), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == load_file(folders["base"] / "model.safetensors").keys()
    close(merged, expected)


def test_what_is_drawn_for_modules_is_what_is_drawn_for_their_folders(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    given = {name: str(folders[f"{name}-whole"]) for name in ("a", "b")}
    saft.merge(MergeConfig(method="dare", base=str(folders["base"]), models=given, seed=1), tmp_path / "out")
    expected = load(tmp_path / "out").state_dict()
    models = {name: load(folders[f"{name}-whole"]) for name in given}
    merged = saft.merge_models(load(folders["base"]), models, "dare", seed=1)
    assert all(value.equal(expected[name]) for name, value in merged.state_dict().items())


def test_a_merge_written_as_an_adapter_is_one_that_peft_loads(
    folders: dict[str, Path], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    given = {name: str(folders[f"{name}-whole"]) for name in ("a", "b")}
    config = MergeConfig(method="average", base=str(folders["base"]), models=given, adapter_rank=4)
    saft.merge(config, tmp_path / "out")
    model = peft.PeftModel.from_pretrained(load(folders["base"]), tmp_path / "out")  # type: ignore[arg-type]
    model.merge_and_unload().save_pretrained(tmp_path / "whole")
    close(load_file(tmp_path / "whole" / "model.safetensors"), expected)


@pytest.mark.parametrize("whole", ["", "-whole"])
def test_modules_and_folders_are_merged_together(
    whole: str, folders: dict[str, Path], expected: dict[str, Tensor]
) -> None:
    module = load(folders["b-whole"])
    if not whole:
        module = peft.PeftModel.from_pretrained(load(folders["base"]), folders["b"])  # type: ignore[arg-type]
    models = {"a": folders[f"a{whole}"], "b": module}
    close(saft.merge_models(str(folders["base"]), models, "average"), expected)  # type: ignore[arg-type]
    base = load(folders["base"])
    merged = saft.merge_models(base, models | {"b": folders[f"b{whole}"]}, "average")  # type: ignore[arg-type]
    close(dict(merged.state_dict()), in_class(base, expected))
    base = saft.merge_models(str(folders["base"]), models, "average", out=base)  # type: ignore[arg-type]
    close(dict(base.state_dict()), in_class(base, expected))


def in_class(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[stored] for name, stored in stored_names(model).items()}


def test_adapters_in_memory(folders: dict[str, Path], expected: dict[str, Tensor]) -> None:
    model = peft.PeftModel.from_pretrained(load(folders["base"]), folders["a"], adapter_name="a")  # type: ignore[arg-type]
    model.load_adapter(str(folders["b"]), "b")
    merge_adapters(model, "average", ["a", "b"], rank=4)
    model.set_adapter("merged")
    close(dict(model.merge_and_unload().state_dict()), in_class(load(folders["base"]), expected))


def test_a_mixture_of_experts_for_the_layers_of_files(folders: dict[str, Path], tmp_path: Path) -> None:
    given = {name: str(folders[f"{name}-whole"]) for name in ("a", "b")}
    saft.merge(MergeConfig(method="smile", base=str(folders["base"]), models=given), tmp_path / "out")
    mixture = saft.load_mixture(tmp_path / "out")
    layers = [name for name, module in load(folders["base"]).named_modules() if isinstance(module, nn.Linear)]
    assert layers == [name for name, module in mixture.named_modules() if isinstance(module, SmileLinear)]
