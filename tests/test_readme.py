"""What the README shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from saft.cli import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_runs(block: str) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1), torch.randn(4, 3)

    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    before = model.weight.detach().clone()
    exec(block, {"torch": torch, "model": model, "x": x, "closure": closure})
    assert not torch.equal(before, model.weight)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_yaml_fits(block: str) -> None:
    from saft import config, tasks
    from saft.merge import MergeConfig
    from saft.models import ModelConfig

    mapping = yaml.safe_load(block)
    if "method" in mapping:
        config.parse(MergeConfig, mapping, "README")
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


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b[A-Z]{4,}_[A-Z]+\b|\bPERTURBATIONS\b", README.replace("MALLOC_", ""))
