"""What the README shows is what there is."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from saft.cli import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


class Model(torch.nn.Linear):
    """A layer that gives its loss, as the Hugging Face Trainer wants it, where it is given labels."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        y = super().forward(x)
        return y if labels is None else {"loss": (y - labels).square().mean()}


def module_of(model: torch.nn.Module) -> Any:
    """Return a module of Lightning's that trains a model."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            return self.model(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def adapted(model: torch.nn.Module) -> Any:
    """Return a model of peft's with two adapters."""
    import peft

    settings = peft.LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
    found = peft.PeftModel(torch.nn.Sequential(model), settings, "one")
    found.add_adapter("two", settings)
    return found


@pytest.mark.parametrize(
    "block",
    [
        block
        for block in blocks("python")
        if not re.search("SFT|DPO|SentenceTransformer|merge_sentence", block)
    ],
)
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's, through Lightning
@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:'pin_memory'")
def test_the_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, x = Model(3, 1), torch.randn(4, 3)
    loader = torch.utils.data.DataLoader(x, batch_size=2)
    dataset = [{"x": row, "labels": 1.0} for row in x]

    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    before = model.weight.detach().clone()
    given: dict[str, Any] = {
        "torch": torch,
        "model": model,
        "x": x,
        "closure": closure,
        "loader": loader,
        "dataset": dataset,
    }
    given |= {"adapted": adapted(model)} if "adapted" in block else {}
    given |= {"module": module_of(model)} if ".fit(module" in block else {}
    given |= {name: Model(3, 1) for name in ("base", "a", "b")}
    exec(block, given)
    assert not torch.equal(before, model.weight)
    if "merged/loss" in block:
        assert given["trainer"].logged_metrics["merged/loss"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_adapters_of_trl_are_trained_and_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from safetensors.torch import load_file

    from tests.integrations.test_trl import model_of, tokenizer_of

    (block,) = [block for block in blocks("python") if "SFTTrainer" in block]
    monkeypatch.chdir(tmp_path)
    model_of(tmp_path / "base")
    tokenizer_of().save_pretrained(tmp_path / "base")
    texts = Dataset.from_dict({"text": ["a b c", "c d e"] * 4})
    exec(block, {"datasets": {"a": texts, "b": texts}})
    base, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert any(not torch.equal(base[name], tensor) for name, tensor in merged.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dpo_of_trl_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from safetensors.torch import load_file

    from tests.integrations.test_trl import data_of, model_of, tokenizer_of

    (block,) = [block for block in blocks("python") if "DPOTrainer" in block]
    monkeypatch.chdir(tmp_path)
    model_of(tmp_path / "base")
    tokenizer_of().save_pretrained(tmp_path / "base")
    exec(block, {"preferences": data_of("DPO").select(range(8))})
    base, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "trained"))
    assert any(not torch.equal(base[name], tensor) for name, tensor in trained.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_are_trained(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    st = pytest.importorskip("sentence_transformers")
    from datasets import Dataset

    (block,) = [block for block in blocks("python") if "SentenceTransformerTrainer" in block]
    monkeypatch.chdir(tmp_path)
    pairs = Dataset.from_dict({"a": ["the cat", "a dog"], "b": ["a bird", "the fish"]})
    exec(block, {"sentence_model": st.SentenceTransformer(str(tiny_model), device="cpu"), "pairs": pairs})
    assert (tmp_path / "trained" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_are_merged(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    st = pytest.importorskip("sentence_transformers")
    (block,) = [block for block in blocks("python") if "merge_sentence" in block]
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b"):
        st.SentenceTransformer(str(tiny_model), device="cpu").save_pretrained(name)
    exec(block, {})
    assert st.SentenceTransformer("merged", device="cpu").encode(["the whale"]).shape == (1, 32)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_yaml_fits(block: str) -> None:
    from saft import config, tasks
    from saft.experiment import RunConfig
    from saft.merge import MergeConfig
    from saft.merging.mergekit import file as mergekit
    from saft.merging.mergekit.keys import is_mergekit
    from saft.model_config import ModelConfig

    mapping = yaml.safe_load(block)
    if is_mergekit(mapping):
        mergekit.read(mapping, "README")
    elif "method" in mapping:
        config.parse(MergeConfig, mapping, "README")
    elif {"arms", "held_out"} & mapping.keys():
        task = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}
        arms = mapping.get("arms", {}).values()
        names = next((arm["experts"] for arm in arms if "experts" in arm), "ab")
        rest = {
            "out": "run",
            "model": {"path": "m"},
            "tasks": dict.fromkeys(names, task),
            "reference": {"c": task},
            "arms": {"adamw": {}},
        }
        config.parse(RunConfig, rest | mapping, "README")
    else:
        config.parse(ModelConfig, mapping["model"], "README")
        for name, task in mapping["tasks"].items():
            tasks.build(name, task, "tasks")


def test_every_verb_script_and_file_is_named() -> None:
    for verb in VERBS:
        assert f"`saft {verb}" in README
    for script in (ROOT / "scripts").iterdir():
        assert script.name in README
    for path in (ROOT / "saft").iterdir():
        if not path.name.startswith(("_", "py.typed")):
            assert path.name in README, path.name


def test_the_house_is_as_it_stands() -> None:
    (house,) = re.findall(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    there = {path.name for path in (ROOT / "saft").rglob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", house)) <= there
    words = re.findall(r"[\w*-]+(?=[.,)\s])", house)
    for config in (ROOT / "configs").iterdir():
        assert any(fnmatch(config.stem, word) for word in words), config.name
    for script in (ROOT / "scripts").iterdir():
        assert script.name in house


def test_every_promise_names_a_test_that_there_is() -> None:
    (table,) = re.findall(r"\| when \| what happens .*?\n\n", README, re.DOTALL)
    for row in table.splitlines()[2:]:
        files = re.findall(r"`(tests/[\w/.]+)`", row)
        assert files or not row, row
        for file in files:
            assert (ROOT / file).is_file(), file


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b(?!MALLOC|GOMP|SAFT|WANDB|MLFLOW)[A-Z]{4,}_[A-Z]+\b|\bPERTURBATIONS\b", README)


def test_every_merge_method_is_named() -> None:
    from saft.merging.methods import METHODS

    missing = {name for name in METHODS.names() if f"`{name}`" not in README}
    assert {name for name in missing if not name.startswith("mergekit")} == set()
