from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from blake3 import blake3

from saft import config
from saft.errors import UserError
from saft.files.checkpoint import read_card, read_manifest, write_tensors
from saft.files.fingerprints import fingerprint
from saft.files.lock import locked
from saft.merge import MergeConfig, merge
from saft.merging.outputs import record


@pytest.fixture
def experts(tiny_model, tmp_path):
    """A base with its tokenizer, and two models fine-tuned from it, with heads and cards."""
    folders = {}
    for seed, task in enumerate(("colours", "sizes"), start=1):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_pretrained(tiny_model)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * 0.01
        folder = tmp_path / task
        model.save_pretrained(folder)
        (folder / "heads").mkdir()
        write_tensors(folder / "heads" / f"{task}.safetensors", {"weight": torch.ones(3, 32)})
        (folder / "README.md").write_text("---\nbase_model: someone/tiny-bert\n---\n")
        folders[task] = str(folder)
    return folders


def files(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()
    }


def test_a_merge_loads_in_transformers_and_computes_the_formula(tiny_model, experts, tmp_path):
    result = merge(MergeConfig("task_arithmetic", str(tiny_model), experts, scaling=0.5), tmp_path / "out")
    assert result.folder == tmp_path / "out"
    merged, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("red whale")["input_ids"]
    base = transformers.AutoModel.from_pretrained(tiny_model).state_dict()
    tuned = [transformers.AutoModel.from_pretrained(folder).state_dict() for folder in experts.values()]
    for name, weight in merged.state_dict().items():
        if weight.is_floating_point():
            expected = base[name] + 0.5 * sum(model[name] - base[name] for model in tuned)
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)


def test_the_folder_holds_side_files_heads_manifest_and_card(tiny_model, experts, tmp_path):
    merge(
        MergeConfig("ties", str(tiny_model), experts, {"density": 0.3}, exclude=["pooler.*"]),
        tmp_path / "out",
    )
    found, base = files(tmp_path / "out"), files(tiny_model)
    for name in set(base) - {"model.safetensors"}:
        assert found.pop(name) == base[name], name
    for task, folder in experts.items():
        assert (
            found.pop(f"heads/{task}.safetensors")
            == (Path(folder) / "heads" / f"{task}.safetensors").read_bytes()
        )
    assert set(found) == {"model.safetensors", "saft.json", "README.md"}

    manifest = read_manifest(tmp_path / "out")
    assert manifest["kind"] == "merge"
    assert manifest["method"] == "ties"
    assert manifest["parameters"] == {
        "density": 0.3,
        "elect": "mass",
        "combine": "mean",
        "granularity": "model",
        "weights": [1.0],
    }
    assert manifest["scaling"] == 1.0
    assert (manifest["arithmetic"], manifest["device"], manifest["vocabulary"]) == (
        "float32",
        "cpu",
        "refuse",
    )
    assert manifest["tensors"]["tied, written once"] == {}
    assert [model["task"] for model in manifest["models"]] == ["colours", "sizes"]
    assert all(
        len(model["blake3"]["model.safetensors"]) == 64 for model in [manifest["base"], *manifest["models"]]
    )
    assert manifest["tensors"]["copied from the base"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert manifest["formula"].startswith("base + 1 × (of each task vector the largest 0.3 of the entries")

    card = read_card(tmp_path / "out")
    assert card["base_model"] == ["someone/tiny-bert"]
    assert card["base_model_relation"] == "merge"
    assert card["tags"] == ["merge", "saft", "ties"]
    text = (tmp_path / "out" / "README.md").read_text()
    assert manifest["formula"] in text
    assert "Parameters: density 0.3, elect mass, combine mean, weights [1], granularity model." in text
    assert all(folder in text for folder in experts.values())


def test_the_same_merge_writes_the_same_bytes(tiny_model, experts, tmp_path):
    settings = MergeConfig("pcb", str(tiny_model), experts)
    for name in ("first", "second"):
        merge(settings, tmp_path / name)
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_another_dtype_is_stated_in_the_config(tiny_model, experts, tmp_path):
    merge(MergeConfig("average", str(tiny_model), experts, dtype="bfloat16"), tmp_path / "out")
    stated = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stated.get("dtype", stated.get("torch_dtype")) == "bfloat16"
    model = transformers.AutoModel.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    unchanged = json.loads((tiny_model / "config.json").read_text())
    assert stated | {"dtype": "", "torch_dtype": ""} == unchanged | {"dtype": "", "torch_dtype": ""}


def test_shards_load_in_transformers_and_hold_the_same_bits(tiny_model, experts, tmp_path):
    settings = MergeConfig("ties", str(tiny_model), experts)
    merge(settings, tmp_path / "whole")
    merge(dataclasses.replace(settings, shard_size="20kB"), tmp_path / "shards")
    names = {file.name for file in (tmp_path / "shards").glob("*.safetensors")}
    assert len(names) > 2
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    whole = transformers.AutoModel.from_pretrained(tmp_path / "whole").state_dict()
    found, info = transformers.AutoModel.from_pretrained(tmp_path / "shards", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in found.state_dict().items():
        assert tensor.equal(whole[name])
    again = merge(MergeConfig("average", str(tiny_model), [str(tmp_path / "shards")]), tmp_path / "again")
    digests = read_manifest(again.folder)["models"][0]["blake3"]
    assert set(digests) == names, "every shard that was read is in the record"


@pytest.mark.parametrize("size", ["1 TB", "many", "0", "-1GB", "0.1B", 0, "9" * 400, 10**400])
def test_what_is_no_size_is_told(tiny_model, experts, size):
    with pytest.raises(UserError, match=f"shard_size: '{size}' is not a size; .* such as 1GB"):
        merge(MergeConfig("ties", str(tiny_model), experts, shard_size=size), None, check_only=True)


def test_a_second_merge_into_a_folder_is_told_before_it_reads_any_weights(
    tiny_model, experts, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys.modules["saft.merge"], "write_merge", None)  # which would fail if it were called
    settings = MergeConfig("ties", str(tiny_model), experts)
    with locked(tmp_path / ".out.lock", "out"), pytest.raises(UserError, match="out: another saft works in"):
        merge(settings, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out").exists()


def test_a_check_writes_nothing(tiny_model, experts, tmp_path):
    before = set(tmp_path.iterdir())
    result = merge(MergeConfig("ties", str(tiny_model), experts), None, check_only=True)
    assert set(tmp_path.iterdir()) == before
    assert result.folder is None
    text = str(result)
    assert "ties, density 0.2" in text
    assert "in each of 3 passes" in text
    assert "weights [1]" in text
    once = merge(MergeConfig("average", str(tiny_model), experts), None, check_only=True)
    assert "KiB in one pass, " in str(once)
    assert "note:" not in text
    assert f"needs at most about {result.plan.memory / 2**20:.0f} MiB of memory" in text
    assert result.seconds > 0
    assert f"takes about {result.seconds:.1f} s" in text
    assert "nothing is wrong" in text


def test_a_base_that_is_listed_as_a_model_is_noted(tiny_model, experts):
    models = {"untouched": str(tiny_model), **experts}
    result = merge(MergeConfig("average", str(tiny_model), models), None, check_only=True)
    assert "note: 'untouched' is the base itself" in str(result)


def test_digests_are_taken_beside_the_work_in_the_order_in_which_it_reads(
    tiny_model, experts, tmp_path, monkeypatch
):
    begun, taken = threading.Event(), []

    def digest(file, *how):
        assert begun.wait(60), "the digests came before the work"
        taken.append(file)
        return fingerprint(file, *how)

    monkeypatch.setattr(record, "fingerprint", digest)
    base = tmp_path / "base"
    transformers.AutoModel.from_pretrained(tiny_model).save_pretrained(base, max_shard_size="20kB")
    settings = MergeConfig("average", str(base), experts)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = merge(settings, tmp_path / "out", progress=lambda done, whole: begun.set())
    finally:
        torch.set_num_threads(threads)
    read = [result.plan.base.headers[name].file for name in result.plan.merged]
    assert [file for file in taken if file.parent == base] == list(dict.fromkeys(read))
    assert len(set(taken)) == len(taken) > 4
    manifest = read_manifest(tmp_path / "out")
    for told in (manifest["base"], *manifest["models"]):
        for name, digest_of_file in told["blake3"].items():
            content = (Path(told["location"]) / name).read_bytes()
            assert digest_of_file == blake3(content).hexdigest()


def test_an_upload_brings_the_whole_folder_which_does_not_name_it(tiny_model, experts, tmp_path, hub):
    settings = MergeConfig("average", str(tiny_model), experts)
    merge(settings, tmp_path / "plain")
    settings = dataclasses.replace(settings, upload="anna/merged")
    merge(settings, None, check_only=True)
    assert hub.asked() == ["whoami"]
    merge(settings, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    assert hub.asked()[1:] == ["whoami", "create_repo", "auth_check", "upload_folder"]
    repository, names, _ = hub.calls[-1][1]
    assert repository == "anna/merged"
    assert {"README.md", "config.json", "model.safetensors", "saft.json"} <= set(names)
    assert set(names) == set(files(tmp_path / "out"))


def test_without_the_right_to_upload_there_is_no_merge_and_without_a_merge_no_upload(
    tiny_model, experts, tmp_path, hub
):
    settings = MergeConfig("task_arithmetic", str(tiny_model), experts, upload="anna/merged")
    hub.refuses["create_repo"] = OSError("403 Forbidden")
    with pytest.raises(UserError, match="upload: anna/merged: 403 Forbidden"):
        merge(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    hub.refuses.clear()
    with pytest.raises(UserError, match="do not fit float16"):
        merge(dataclasses.replace(settings, dtype="float16", scaling=1e30), tmp_path / "out")
    assert "upload_folder" not in hub.asked()


def test_a_target_in_use_is_refused_before_the_work(tiny_model, experts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").write_text("1")
    settings = MergeConfig("average", str(tiny_model), experts)
    for check_only in (True, False):
        with pytest.raises(UserError, match="not empty"):
            merge(settings, tmp_path / "out", check_only=check_only)
    assert files(tmp_path / "out") == {"adapter_config.json": b"1"}
    merge(settings, tmp_path / "out", overwrite=True)
    assert "adapter_config.json" not in files(tmp_path / "out")


def test_the_config_is_read_from_yaml(tiny_model, experts, tmp_path):
    file = tmp_path / "merge.yaml"
    mapping = {
        "method": "ties",
        "base": str(tiny_model),
        "models": experts,
        "parameters": {"density": 0.2},
        "scaling": 1,
        "dtype": "float32",
        "exclude": ["pooler.*"],
        "seed": 0,
    }
    file.write_text(yaml.safe_dump(mapping))
    loaded = config.parse(MergeConfig, config.read(file), str(file))
    assert loaded == MergeConfig(
        method="ties",
        base=str(tiny_model),
        models=experts,
        parameters={"density": 0.2},
        scaling=1.0,
        dtype="float32",
        exclude=["pooler.*"],
        seed=0,
    )
    with pytest.raises(UserError, match="scalling: unknown key; did you mean 'scaling'"):
        config.parse(MergeConfig, config.overridden(config.read(file), ["--scalling=1"]), str(file))
    for _, _, _, documentation in config.describe(MergeConfig):
        assert documentation


MERGES_THAT_PAUSE = """
import os, sys, time
from saft.merge import MergeConfig, merge

settings = MergeConfig("ties", sys.argv[4], sys.argv[5:], shard_size=sys.argv[2] or None)
for step in map(int, sys.argv[1].split()):
    child = os.fork()
    if child == 0:
        left = iter(range(step - 1, -1, -1))
        def pause(done, whole):
            if next(left) == 0:
                print(os.getpid(), flush=True)
                time.sleep(600)
        merge(settings, sys.argv[3], progress=pause)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("shard_size", [None, "20kB"])
def test_a_merge_killed_while_it_reads_or_writes_leaves_nothing(tiny_model, experts, tmp_path, shard_size):
    settings = MergeConfig("ties", str(tiny_model), list(experts.values()), shard_size=shard_size)
    plan = merge(settings, tmp_path / "expected").plan
    last = plan.passes * len(plan.merged)
    # In shards, what is finished is not merged again: a merge that goes on has fewer steps in its last pass.
    at_the_end = last - 1 if shard_size is None else last - len(plan.merged) * 3 // 4
    steps = (1, last // 2, last - len(plan.merged) // 2, at_the_end)
    out = tmp_path / "out"
    words = [" ".join(map(str, steps)), shard_size or "", str(out), str(tiny_model), *experts.values()]
    with subprocess.Popen(
        [sys.executable, "-c", MERGES_THAT_PAUSE, *words], stdout=subprocess.PIPE
    ) as process:
        for _ in steps:
            os.kill(int(process.stdout.readline()), signal.SIGKILL)
            assert process.stdout.readline() == b"killed\n"
            assert not out.exists()
    assert process.returncode == 0
    left = merge(settings, out, check_only=True).shards_left
    assert left[0] == 0 if shard_size is None else 0 < left[0] < left[1]
    merge(settings, out)
    assert files(out) == files(tmp_path / "expected")
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")], (
        "the next merge tidied up"
    )


KILLED_AT_ANY_CALL = """
import os, signal, sys
from saft.merge import MergeConfig, merge

CALLS = {"open", "mkdir", "rename", "remove", "fsync", "os.chmod", "shutil.copyfile", "os.rename", "os.mkdir"}
settings = MergeConfig("average", sys.argv[2], sys.argv[3:5], shard_size=sys.argv[5] or None)
merge(settings, sys.argv[1] + "/warm", overwrite=True)
for moment in range(10**6):
    child = os.fork()
    if child == 0:
        seen = 0
        def kill(event, arguments):
            global seen
            # What is on the disk is the same while one tensor of all models is read: the base's is enough.
            of_an_expert = event == "open" and os.path.dirname(str(arguments[0])) in sys.argv[3:5]
            if event in CALLS and not of_an_expert:
                seen += 1
                if seen > moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        merge(settings, sys.argv[1] + "/out")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, os.waitstatus_to_exitcode(status), flush=True)
    sys.stdin.readline()
    if status == 0:
        break
"""


def kill_at_every_call(command, out, expected):
    """Run a merge that is killed at each call in turn; after each there is nothing, or what is expected."""
    seen = {"nothing": 0, "a whole": 0}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        for line in process.stdout:
            if out.exists():
                assert files(out) == expected, line
                shutil.rmtree(out)
                seen["a whole"] += 1
            else:
                seen["nothing"] += 1
            process.stdin.write(b"\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert seen["nothing"] > 20
    assert seen["a whole"] >= 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("shard_size", ["", "20kB"])
def test_a_merge_killed_at_any_call_of_the_file_system_leaves_nothing_or_a_whole(
    tiny_model, experts, tmp_path, shard_size
):
    settings = MergeConfig("average", str(tiny_model), list(experts.values()), shard_size=shard_size or None)
    merge(settings, tmp_path / "expected")
    expected, out = files(tmp_path / "expected"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED_AT_ANY_CALL, str(tmp_path), str(tiny_model), *experts.values()]
    kill_at_every_call([*command, shard_size], out, expected)
