"""An output that somebody adds: one file, asked for by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.merge import MergeConfig, merge
from saft.merging.outputs.output import OUTPUTS, Output, Written
from saft.merging.plan import Plan
from saft.merging.stream import engine


@dataclass(frozen=True)
class Sums(Output):
    """A file with the sum of each merged tensor."""

    digits: int
    is_model = False

    def bytes(self, plan: Plan) -> int:
        return 100 * len(plan.merged)

    def write(self, plan: Plan, folder: Path, progress: Any = None) -> Written:
        lines = (f"{name} {vector.sum():.{self.digits}f}" for name, vector in engine.stream(plan, progress))
        (folder / "sums.txt").write_text("\n".join(lines))
        return Written(summary="sums written")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    OUTPUTS.names()  # the registry looks for its files before it is copied
    monkeypatch.setattr(OUTPUTS, "_classes", dict(OUTPUTS._classes))
    OUTPUTS.register("sums")(Sums)


def config(checkpoints: Any, **more: Any) -> MergeConfig:
    base, models = checkpoints
    return MergeConfig(method="task_arithmetic", base=str(base), models=models, **more)


def test_an_output_of_ones_own_is_one_class(checkpoints: Any, tmp_path: Path) -> None:
    result = merge(config(checkpoints, output={"name": "sums", "digits": 3}), tmp_path / "out")
    assert "sums written" in str(result)
    lines = (tmp_path / "out" / "sums.txt").read_text().splitlines()
    assert len(lines) == len(result.plan.merged)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"digits": 3}, "output.name: is required, but missing; choose from: adapter, sums"),
        ({"name": "sum"}, "unknown output 'sum'; did you mean 'sums'"),
        ({"name": "sums"}, "output.digits: is required, but missing"),
        ({"name": "sums", "digit": 3}, "output.digit: unknown key; did you mean 'digits'"),
        ({"name": "parts"}, "output.name: 'parts' is not asked for by name"),
        (
            {"name": "saft.model_config:ModelConfig"},
            "output.name: output 'saft.model_config:ModelConfig': must be a subclass of",
        ),
        ({"name": "adapter", "rank": 0}, "output.rank: must be at least 1, but is 0"),
    ],
)
def test_what_cannot_be_is_told(checkpoints: Any, output: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        merge(config(checkpoints, output=output), None, check_only=True)


def test_one_form_is_asked_for_once(checkpoints: Any) -> None:
    both = config(checkpoints, output={"name": "sums", "digits": 3}, adapter_rank=2)
    with pytest.raises(UserError, match="asks for 'adapter' already"):
        merge(both, None, check_only=True)


def test_an_adapter_by_its_name_is_that_of_adapter_rank(checkpoints: Any, tmp_path: Path) -> None:
    merge(config(checkpoints, output={"name": "adapter", "rank": 2}), tmp_path / "named")
    merge(config(checkpoints, adapter_rank=2), tmp_path / "short")
    file = "adapter_model.safetensors"
    assert (tmp_path / "named" / file).read_bytes() == (tmp_path / "short" / file).read_bytes()
