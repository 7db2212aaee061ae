"""The verbs on a GPU: what they write is what they write on the CPU, but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import saft
from saft import config
from saft.evaluate import EvaluateConfig, evaluate
from saft.merge import MergeConfig, merge
from saft.merging.methods import METHODS
from saft.tasks.text_classification import BoundTextClassification
from saft.train import TrainConfig, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# They need adapters, or models of their own kind.
METHODS_OF_WHOLE_MODELS = [name for name, kind in METHODS.items() if not kind.needs_adapters]
FEWER = {"adamerging": {"iterations": 5}}  # by default it takes a minute


@pytest.fixture
def experts(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """Two models beside the base, with the names of the tiny tasks."""
    folders = {}
    for seed, name in enumerate(("colour", "size")):
        model = transformers.AutoModel.from_pretrained(tiny_model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * 0.05
        model.save_pretrained(tmp_path / name)
        transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / name)
        folders[name] = str(tmp_path / name)
    return folders


def determined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what the input determines: singular vectors have it only up to their signs, so products of them."""
    products = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if last == "router":
            products[name] = tensor.mT @ tensor
        elif last == "U":
            products[stem] = tensor @ tensors[f"{stem}.SV"]
        elif last != "SV":
            products[name] = tensor
    return products


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(folder)}: {name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("method", METHODS_OF_WHOLE_MODELS)
def test_every_method_on_cuda_writes_what_it_writes_on_the_cpu(
    method: str, tiny_model: Path, tiny_tasks: dict[str, Any], experts: dict[str, str], tmp_path: Path
) -> None:
    kind = METHODS.get(method)
    if not kind.fewest <= len(experts) <= kind.most:
        pytest.skip(f"{method} does not merge two models")
    data = {"data": {"tasks": tiny_tasks, "examples": 16}} if kind.calibration else {}
    parameters = {"parameters": FEWER[method]} if method in FEWER else {}
    settings = {"method": method, "base": str(tiny_model), "models": experts, **data, **parameters}
    found = []
    for device in ("cpu", "cuda"):
        merge(config.parse(MergeConfig, {**settings, "device": device}, "test"), tmp_path / device)
        found.append(determined(tensors_of(tmp_path / device)))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        other = found[1][name]
        assert other.dtype == expected.dtype
        if expected.is_floating_point():
            # An entry at a threshold may fall to its other side: hardly any does.
            far = ~torch.isclose(other.double(), expected.double(), rtol=1e-3, atol=1e-4)
        else:
            far = other != expected
        assert far.double().mean() < 0.005, name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_and_evaluation_on_cuda(
    tiny_model: Path,
    tiny_tasks: dict[str, Any],
    tmp_path: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored_on, score = [], BoundTextClassification.score

    def noted(task: Any, model: Any, *rest: Any) -> Any:
        scored_on.append(next(model.parameters()).device.type)
        return score(task, model, *rest)

    monkeypatch.setattr(BoundTextClassification, "score", noted)
    mapping = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["colour"],
        "name": "colour",
        "out": str(tmp_path / "out"),
        "training": {"steps": 60, "learning_rate": 1e-2, "perturbation": {"name": "sam", "rho": 0.05}},
        "train_examples": 40,
        "trainer": {"accelerator": "gpu", "precision": precision},
    }
    settings = config.parse(TrainConfig, mapping, "test")
    result = train(settings)
    assert result.validation.value > 0.9
    assert result.device.startswith("cuda")
    assert scored_on == ["cuda"]  # Lightning moves what it has trained back to the CPU
    figures = [
        evaluate(EvaluateConfig([str(result.folder)], device=device, precision="32-true")).figures
        for device in ("cpu", "cuda")
    ]
    assert figures[0] == figures[1]
    asked = EvaluateConfig([str(result.folder)], split="validation", device="cuda", precision=precision)
    assert evaluate(asked).figures[str(result.folder)]["colour"] == result.validation.value


def test_a_training_on_cuda_can_be_repeated(
    tiny_model: Path, tiny_tasks: dict[str, Any], tmp_path: Path
) -> None:
    # Of a few steps: sums whose order differs grow apart from then on.
    training = {"steps": 3, "learning_rate": 1e-2, "perturbation": {"name": "sam", "rho": 0.05}}
    found = []
    for name in ("once", "again"):
        mapping = {
            "model": {"path": str(tiny_model)},
            "task": tiny_tasks["colour"],
            "out": str(tmp_path / name),
            "training": training,
            "trainer": {"accelerator": "gpu", "precision": "32-true"},
        }
        found.append(tensors_of(train(config.parse(TrainConfig, mapping, "test")).folder))
    for name, tensor in found[0].items():
        if not name.endswith("key.bias"):  # softmax cancels it: its gradient is round-off
            torch.testing.assert_close(found[1][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["ties", "tsv_m", "dare"])
def test_models_on_a_gpu_are_merged_there(method: str, tiny_model: Path, experts: dict[str, str]) -> None:
    models = {name: transformers.AutoModel.from_pretrained(folder) for name, folder in experts.items()}
    base = transformers.AutoModel.from_pretrained(tiny_model)
    expected = saft.merge_models(base, models, method).state_dict()
    merged = saft.merge_models(base.cuda(), {name: model.cuda() for name, model in models.items()}, method)
    for name, tensor in merged.state_dict().items():
        assert tensor.is_cuda
        torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-4, atol=1e-5)
