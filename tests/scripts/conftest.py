"""The benches as modules, and what a run leaves that they read."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saft.files.checkpoint import write_manifest
from tests.moved import moved

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"


@pytest.fixture
def load_bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that imports a file of scripts/benchmarks, which may import those beside it."""

    def load(name: str) -> Any:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"bench_{name}", module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def finished_run(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    """Return what a run of two tasks leaves: the base and its experts."""
    shutil.copytree(tiny_model, tmp_path / "base")
    for seed, name in enumerate(tiny_tasks):
        expert = moved(tiny_model, tmp_path / "experts/all/adamw/seed0" / name, seed)
        write_manifest(expert, {"tasks": {name: tiny_tasks[name]}})
    return tmp_path
