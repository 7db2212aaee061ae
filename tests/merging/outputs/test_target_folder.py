from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.outputs import target_folder


def problems(config, out, overwrite=False):
    with pytest.raises(UserError) as caught:
        check(config, out, overwrite)
    return list(caught.value.problems)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_no_output(checkpoints, overwrite):
    base, models = checkpoints
    for out in (base, models["b"], models["b"] + "/", f"{base}/../{Path(models['b']).name}"):
        (found,) = problems(MergeConfig("average", base, models), out, overwrite)
        assert "is one of the models to merge" in found


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_an_input_is_no_output(checkpoints, tmp_path, overwrite):
    base, models = checkpoints
    (found,) = problems(MergeConfig("average", base, models), tmp_path, overwrite)
    assert f"{tmp_path}: holds {tmp_path}/" in found
    assert "one of the models to merge" in found


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_of_an_input_is_no_output_but_a_folder_of_its_own_in_one_is(checkpoints, overwrite):
    base, models = checkpoints
    settings = {"modules.json": '[{"path": "1_Pooling", "type": "Pooling"}]', "1_Pooling/config.json": "{}"}
    pooled = Path(models["a"])
    for file, text in settings.items():
        (pooled / file).parent.mkdir(exist_ok=True)
        (pooled / file).write_text(text)
    config = MergeConfig("average", base, models)
    for out in (f"{base}/heads", f"{pooled}/1_Pooling", f"{pooled}/1_Pooling/new"):
        (found,) = problems(config, out, overwrite)
        assert found.startswith(f"{out}: is in a part of {Path(out).parents[out.endswith('new')]}, one of")
    assert check(config, Path(base) / "merged", overwrite).merged


def test_a_folder_in_use_is_told_with_everything_else(checkpoints, tmp_path):
    base, models = checkpoints
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("1")
    config = MergeConfig("ties", base, models | {"c": str(tmp_path / "nowhere")}, {"density": 20})
    assert any("is not empty; choose another folder" in text for text in problems(config, out))
    assert len(problems(config, out)) == 3
    assert check(MergeConfig("ties", base, models), out, overwrite=True).merged
    assert [file.name for file in out.iterdir()] == ["config.json"]


def test_a_full_disk_is_told_before_the_work(checkpoints, tmp_path, monkeypatch):
    base, models = checkpoints
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(target_folder.shutil, "disk_usage", lambda path: usage)
    (found,) = problems(MergeConfig("average", base, models), tmp_path / "new" / "out")
    assert "1.0 KiB are left on the disk" in found
