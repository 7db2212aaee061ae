"""Every file of saft/ has its own test file, or a line here that says from where it is tested.

`tests/test_imports.py` says who may know whom; this is its other half. A file `saft/a/b.py` is tested by
`tests/a/test_b.py`; where what it does shows only through its callers, by a file of `FROM_ABOVE`.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A file below saft/ -> the file below tests/ that tests it through its callers.
FROM_ABOVE = {
    "__init__.py": "test_saft.py",
    "__main__.py": "test_run.py",
    "calibration/__init__.py": "calibration/test_calibration.py",
    "calibration/data.py": "calibration/test_calibration.py",
    "checkpoint_tasks.py": "test_measure.py",
    "cli/__init__.py": "cli/test_cli.py",
    "cli/catalogue.py": "cli/test_cli.py",
    "cli/help.py": "cli/test_cli.py",
    "cli/merge_file.py": "merging/mergekit/test_file.py",
    "cli/verbs.py": "cli/test_cli.py",
    "cli/words.py": "cli/test_cli.py",
    "evaluate_config.py": "test_evaluate.py",
    "experiment/run_check.py": "test_run.py",
    "experiment/cluster.py": "experiment/executors/test_slurm.py",
    "experiment/arm_facts.py": "test_run.py",
    "experiment/collect.py": "test_run.py",
    "experiment/executors/__init__.py": "test_registry.py",
    "experiment/executors/serial.py": "test_run.py",
    "experiment/merge_options.py": "experiment/test_resolve.py",
    "experiment/run_config.py": "experiment/test_resolve.py",
    "experiment/stages/__init__.py": "experiment/test_stages.py",
    "experiment/stages/choose_trial.py": "experiment/test_rounds.py",
    "experiment/stages/base_model.py": "experiment/test_stages.py",
    "experiment/stages/held_out.py": "experiment/test_held_out.py",
    "experiment/stages/train_expert.py": "experiment/test_stages.py",
    "experiment/stages/measure_functions.py": "experiment/test_stages.py",
    "experiment/stages/measure_weights.py": "experiment/test_stages.py",
    "experiment/stages/merge_experts.py": "experiment/test_stages.py",
    "experiment/stages/step.py": "experiment/test_stages.py",
    "experiment/stages/trained_models.py": "experiment/test_first_rounds.py",
    "integrations/lightning_passes.py": "integrations/test_lightning.py",
    "interventions.py": "calibration/test_intervmerge.py",
    "measure_config.py": "test_measure.py",
    "merging/merge_config.py": "merging/test_merge_check.py",
    "merging/dtypes.py": "merging/stream/test_engine.py",
    "merging/expected_result.py": "cli/test_merge_stages.py",
    "merging/inputs/adapted_model.py": "parametrizations/test_lora.py",
    "merging/inputs/alignment.py": "merging/test_merge_check.py",
    "merging/inputs/in_memory.py": "merging/test_merge_models.py",
    "merging/inputs/same_numbers.py": "merging/test_notes.py",
    "merging/inputs/lora_change.py": "merging/inputs/test_peft_adapter.py",
    "merging/inputs/factors.py": "merging/methods/test_robust_merge.py",
    "merging/inputs/task_parts.py": "merging/outputs/test_parts.py",
    "merging/mergekit/generalized_arithmetic.py": "merging/mergekit/test_file.py",
    "merging/mergekit/generalized_della.py": "merging/mergekit/test_file.py",
    "merging/mergekit/keys.py": "merging/mergekit/test_file.py",
    "merging/mergekit/method_table.py": "merging/mergekit/test_file.py",
    "merging/mergekit/ram.py": "merging/mergekit/test_file.py",
    "merging/mergekit/sce.py": "merging/mergekit/test_file.py",
    "merging/mergekit/two_models.py": "merging/mergekit/test_file.py",
    "merging/methods/__init__.py": "contracts/test_merge_methods.py",
    "merging/methods/adamerging.py": "calibration/test_adaptive_coefficients.py",
    "merging/methods/average.py": "merging/test_golden.py",
    "merging/methods/task_arithmetic.py": "merging/test_golden.py",
    "merging/outputs/record.py": "test_merge.py",
    "merging/outputs/task_interventions.py": "calibration/test_intervmerge.py",
    "merging/outputs/whole_model.py": "merging/stream/test_engine.py",
    "merging/parameters.py": "contracts/test_merge_methods.py",
    "merging/per_task.py": "contracts/test_per_task_methods.py",
    "merging/plan.py": "merging/test_time_estimate.py",
    "merging/stream/data_statistics.py": "merging/methods/test_fisher.py",
    "merging/stream/reader.py": "merging/stream/test_engine.py",
    "model_config.py": "test_evaluate.py",
    "optim/__init__.py": "optim/test_sam.py",
    "optim/make_slots.py": "optim/test_ascent.py",
    "optim/parameter_groups.py": "optim/test_ascent.py",
    "optim/perturbations/asam.py": "optim/test_oracles.py",
    "optim/perturbations/base.py": "contracts/test_perturbations.py",
    "optim/perturbations/friendly_sam.py": "optim/test_oracles.py",
    "optim/perturbations/gsam.py": "optim/test_oracles.py",
    "optim/perturbations/looksam.py": "optim/test_oracles.py",
    "optim/perturbations/momentum_sam.py": "optim/test_oracles.py",
    "optim/perturbations/norm_only.py": "optim/test_oracles.py",
    "optim/perturbations/sam.py": "optim/test_oracles.py",
    "optim/perturbations/sampled_shift.py": "optim/test_oracles.py",
    "optim/slots.py": "optim/test_displacement.py",
    "parametrizations/full.py": "contracts/test_parametrizations.py",
    "parametrizations/parametrization.py": "contracts/test_parametrizations.py",
    "penalties/penalty.py": "contracts/test_penalties.py",
    "penalties/unlabelled.py": "penalties/test_drift.py",
    "report/cell_result.py": "report/test_results.py",
    "summarize_config.py": "test_summarize.py",
    "tasks/__init__.py": "tasks/test_text_classification.py",
    "tasks/bound_with_head.py": "tasks/test_text_classification.py",
    "tasks/causal_batch.py": "tasks/test_language_modeling.py",
    "tasks/conversation.py": "tasks/test_language_modeling.py",
    "tasks/image_examples.py": "tasks/test_image_classification.py",
    "tasks/image_model.py": "tasks/test_image_classification.py",
    "tasks/image_processor.py": "tasks/test_image_classification.py",
    "tasks/language_model.py": "tasks/test_language_modeling.py",
    "tasks/bound_language_task.py": "tasks/test_text_to_text.py",
    "tasks/language_task.py": "tasks/test_text_to_text.py",
    "tasks/metric.py": "report/test_figures.py",
    "tasks/packing.py": "tasks/test_language_modeling.py",
    "tasks/table_source.py": "tasks/test_table.py",
    "tasks/task.py": "tasks/test_text_classification.py",
    "tasks/text_examples.py": "tasks/test_text_classification.py",
    "train.py": "training/test_fine_tuning.py",
    "interference/hurting.py": "interference/test_culprit.py",
    "stored_names.py": "training/test_image_models.py",
    "suggest_config.py": "test_suggest.py",
    "suggest_models.py": "test_suggest.py",
    "suggest_result.py": "test_suggest.py",
    "experiment/stages/weigh_experts.py": "experiment/test_stages.py",
    "training/ranks.py": "training/test_data_parallel.py",
    "training/module.py": "training/test_fine_tuning.py",
    "training/train_result.py": "training/test_fine_tuning.py",
    "trajectory/averaging.py": "contracts/test_averagings.py",
    "trajectory/ema.py": "contracts/test_averagings.py",
    "trajectory/tail.py": "contracts/test_averagings.py",
}
HOPS = 2  # modules of saft between a test and what it tests: through a verb, and one of the rooms below it


def own_test(file: str) -> Path:
    path = Path(file)
    return ROOT / "tests" / path.parent / f"test_{path.name}"


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def does_nothing(file: Path) -> bool:
    """Return whether a file has only a docstring, imports, and the list of names that it hands on."""

    def is_said_only(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return [ast.unparse(target) for target in node.targets] == ["__all__"]
        if isinstance(node, ast.AugAssign):
            return ast.unparse(node.target) == "__all__"
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)

    return all(map(is_said_only, parsed(file).body))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """Return the modules of saft that a file imports, at its top or in a function."""
    names = set[str]()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] == "saft")


@functools.cache
def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.exists()), None)


@functools.cache
def public_names(file: Path) -> list[str]:
    lists = [
        node.value
        for node in parsed(file).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return [str(node.value) for names in lists for node in ast.walk(names) if isinstance(node, ast.Constant)]


@functools.cache
def registered_names(file: Path) -> list[str]:
    """Return the names by which a config asks for what is in a file: "sam" of `@PERTURBATIONS.register("sam")`."""
    return re.findall(r'\.register\(\s*"(\w+)"', file.read_text("utf-8"))


@functools.cache
def mentions(reader: Path, file: Path) -> bool:
    """Return whether a file imports another, calls it by its dotted or registered name, or by a name of it."""
    module = module_of(file)
    if module in imported(reader):
        return True
    text = reader.read_text("utf-8")
    if file.stem == "__main__":
        return '"-m", "saft"' in text
    names = "|".join(map(re.escape, (module, *public_names(file))))
    asked_for = any(f'"{name}"' in text for name in registered_names(file))
    return asked_for or re.search(rf"(?<![\w.])({names})\b", text) is not None


@functools.cache
def below(reader: Path) -> set[Path]:
    """Return the files of saft that a file imports, and of a test the one whose test it is."""
    files = {file for name in imported(reader) if (file := file_of(name))}
    if reader.is_relative_to(ROOT / "tests"):
        at = reader.relative_to(ROOT / "tests")
        mine = ROOT / "saft" / at.parent / at.name.removeprefix("test_")
        files |= {mine} if mine.exists() else set()
    return files - {ROOT / "saft" / "__init__.py"}  # it hands on everything


def reaches(test: Path, file: Path) -> bool:
    """Return whether a test, a conftest.py of it, or a module that is at most `HOPS` below knows a file."""
    folders = [folder for folder in test.parents if folder.is_relative_to(ROOT / "tests")]
    level = {test, *(above for folder in folders if (above := folder / "conftest.py").exists())}
    for _ in range(HOPS + 1):
        if any(mentions(reader, file) for reader in level):
            return True
        level = {lower for reader in level for lower in below(reader)}
    return False


FILES = [
    str(file.relative_to(ROOT / "saft"))
    for file in sorted((ROOT / "saft").rglob("*.py"))
    if not does_nothing(file)
]


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_a_test(file: str) -> None:
    mine = own_test(file)
    assert mine.exists() or file in FROM_ABOVE, (
        f"saft/{file} has no test: write {mine.relative_to(ROOT)}, or say in FROM_ABOVE what tests it"
    )


@pytest.mark.parametrize(("file", "test"), FROM_ABOVE.items(), ids=str)
def test_what_is_tested_from_above_is(file: str, test: str) -> None:
    there = ROOT / "tests" / test
    assert file in FILES, f"saft/{file} is not there, or does nothing; take it out of FROM_ABOVE"
    assert not own_test(file).exists(), f"saft/{file} has a test of its own; take it out of FROM_ABOVE"
    assert there.exists(), f"tests/{test} is not there, and is said to test saft/{file}"
    assert reaches(there, ROOT / "saft" / file), f"tests/{test} has nothing to do with saft/{file}"


@pytest.mark.parametrize(
    ("test", "file"),
    [("tasks/test_labels.py", "optim/perturbations/gsam.py"), ("optim/test_sam.py", "report/cell_result.py")],
)
def test_a_test_of_something_else_is_noticed(test: str, file: str) -> None:
    assert not reaches(ROOT / "tests" / test, ROOT / "saft" / file)
