"""What an input may look like: torch's pickles, tied weights, other prefixes, other vocabularies."""

from __future__ import annotations

import json
import pickle

import pytest
import safetensors.torch
import torch
import transformers

from saft.errors import UserError
from saft.files.checkpoint import read_manifest
from saft.merging.inputs.source import read_source
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.outputs.record import write_merge
from saft.merging.stream import engine


@pytest.fixture
def pickled(tmp_path):
    """Write tensors as pytorch_model.bin, in one file or in shards, and return the folder as text."""

    def write(name, tensors, shards=1, config="{}", **save):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        if shards == 1:
            torch.save(tensors, folder / "pytorch_model.bin", **save)
            return str(folder)
        names, weight_map = list(tensors), {}
        for at in range(shards):
            file = f"pytorch_model-{at}.bin"
            torch.save({name: tensors[name] for name in names[at::shards]}, folder / file)
            weight_map |= dict.fromkeys(names[at::shards], file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return str(folder)

    return write


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_merge_to_the_bits_of_safetensors(
    checkpoints, base_tensors, task_tensors, pickled, tmp_path, shards
):
    base, models = checkpoints
    write_merge(check(MergeConfig("ties", base, models)), tmp_path / "expected")
    pickled_models = {task: pickled(f"{task}.bin", tensors, shards) for task, tensors in task_tensors.items()}
    plan = check(MergeConfig("ties", pickled("base.bin", base_tensors, shards), pickled_models))
    write_merge(plan, tmp_path / "out")
    expected, found = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("expected", "out"))
    assert found == expected
    assert len(read_manifest(tmp_path / "out")["models"][0]["blake3"]) == shards
    assert not list((tmp_path / "out").glob("*.bin*"))


def test_a_strided_tensor_in_a_pickle_is_read_in_its_order(pickled):
    turned = torch.arange(12.0).view(3, 4).t()
    base, model = pickled("base", {"w": torch.zeros(4, 3)}), pickled("a", {"w": turned})
    assert dict(engine.stream(check(MergeConfig("average", base, [model]))))["w"].equal(turned)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.filterwarnings("ignore")  # of torch, at quantized tensors
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda: {"w": torch.zeros(2), "x": Harmful()}, r"more than weights \(\S*print\), and is not loaded"),
        (lambda: torch.nn.Linear(2, 2), r"more than weights \(torch\.\S+\.Linear\), and is not loaded"),
        (lambda: {"epoch": 1, "state_dict": {"w": torch.zeros(2)}}, "is not a state dict"),
        (lambda: torch.zeros(2), "is not a state dict"),
        (lambda: {0: torch.zeros(2)}, "is not a state dict"),
        (lambda: {"w": torch.zeros(2).to_sparse()}, "'w' is sparse"),
        (lambda: {"w": torch.zeros(2, device="meta")}, "'w' is on the device 'meta' and has no numbers"),
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, "'w' is quantized"),
        (lambda: {"w": torch.zeros(2, dtype=torch.complex128)}, "'w' is complex128, which is not read here"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_never_run(save, pickled, capsys, content, told):
    base, model = save("base", {"w": torch.zeros(2)}), pickled("a", content())
    with pytest.raises(UserError, match=told) as caught:
        check(MergeConfig("average", base, [model]))
    assert "pytorch_model.bin" in str(caught.value)
    assert "trusted" not in str(caught.value)  # torch advises to load it anyway
    assert capsys.readouterr().out == ""


def test_damaged_and_old_pickles_are_told(save, pickled, tmp_path):
    base, model = save("base", {"w": torch.zeros(2)}), pickled("a", {"w": torch.zeros(2)})
    old = pickled("b", {"w": torch.zeros(2)}, _use_new_zipfile_serialization=False)
    file = tmp_path / "a" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        check(MergeConfig("average", base, [model, old]))
    damaged, written_by_old = caught.value.problems
    assert "is damaged, or is not a file of torch" in damaged
    assert "written by torch before 1.6" in written_by_old
    assert "safetensors" in written_by_old
    file.write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(UserError, match=r"more than weights|damaged"):
        check(MergeConfig("average", base, [model]))


@pytest.mark.parametrize("kept", [0, 3, 100, 0.1, 0.5, 0.9, -1])
def test_a_pickle_that_is_cut_off_anywhere_is_told(save, pickled, tmp_path, kept):
    base, model = save("base", {"w": torch.zeros(5000)}), pickled("a", {"w": torch.zeros(5000)})
    file = tmp_path / "a" / "pytorch_model.bin"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(UserError, match=r"pytorch_model\.bin: (is|was) .*damaged"):
        check(MergeConfig("average", base, [model]))


def test_a_pointer_in_place_of_a_pickle_is_told(save, pickled, tmp_path):
    base, model = save("base", {"w": torch.zeros(2)}), pickled("a", {"w": torch.zeros(2)})
    (tmp_path / "a" / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        check(MergeConfig("average", base, [model]))


# Tied weights


TIED = json.dumps({"tie_word_embeddings": True})


def language_model(seed, head="tied"):
    generator = torch.manual_seed(seed)
    embedding = torch.randn(6, 4, generator=generator)
    found = {"model.embed.weight": embedding, "model.layer.weight": torch.randn(4, 4, generator=generator)}
    if head == "tied":
        found["lm_head.weight"] = embedding
    if head in ("copy", "free"):
        found["lm_head.weight"] = (
            embedding.clone() if head == "copy" else torch.randn(6, 4, generator=generator)
        )
    return found


@pytest.mark.parametrize("base_head", ["tied", "copy", "absent"])
@pytest.mark.parametrize("model_head", ["tied", "copy", "absent"])
def test_a_tied_pair_counts_once_however_it_is_stored(pickled, tmp_path, base_head, model_head):
    base = pickled("base", language_model(0, base_head), config=TIED)
    models = {
        task: pickled(task, language_model(seed, model_head), config=TIED)
        for seed, task in ((1, "a"), (2, "b"))
    }
    plan = check(MergeConfig("ties", base, models, {"density": 0.3}))
    write_merge(plan, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == {"model.embed.weight", "model.layer.weight"}
    tensors = [language_model(seed, "absent") for seed in (0, 1, 2)]
    vectors = torch.stack(
        [torch.cat([t[n].view(-1) - tensors[0][n].view(-1) for n in sorted(t)]) for t in tensors[1:]]
    )
    merged = engine.merge_task_vectors(plan.method, vectors)
    assert written["model.embed.weight"].equal(tensors[0]["model.embed.weight"] + merged[:24].view(6, 4))
    stated = read_manifest(tmp_path / "out")["tensors"]["tied, written once"]
    assert stated == ({} if base_head == "absent" else {"lm_head.weight": "model.embed.weight"})


def test_a_model_that_ties_meets_a_base_that_does_not(pickled, save):
    base = save("base", language_model(0, "free"))
    tied = language_model(1)
    found = dict(engine.stream(check(MergeConfig("average", base, [pickled("a", tied)]))))
    free = language_model(0, "free")
    assert found["lm_head.weight"].equal(tied["lm_head.weight"] - free["lm_head.weight"])


def test_a_head_that_was_untied_is_told_and_may_be_excluded(pickled):
    base = pickled("base", language_model(0), config=TIED)
    config = MergeConfig("average", base, [pickled("a", language_model(1, "free"), config=TIED)])
    with pytest.raises(
        UserError, match=r"has 'lm_head\.weight', which the base .* lacks or ties to another; .*lm_head"
    ):
        check(config)
    plan = check(MergeConfig("average", base, config.models, exclude=["lm_head.*"]))
    assert set(plan.layout) == {"model.embed.weight", "model.layer.weight"}


def test_equal_copies_are_not_tied_unless_the_config_says_so(save, tmp_path):
    ours = {"embed.weight": torch.ones(3, 2), "lm_head.weight": torch.ones(3, 2)}
    assert not read_source("", tmp_path / save("base", ours).split("/")[-1]).tied


def test_a_tied_model_of_transformers_comes_back(tmp_path):
    torch.manual_seed(0)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 6}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    model.save_pretrained(tmp_path / "base")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # shares the storage of the tied pair
    (tmp_path / "a").mkdir()
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "a" / "pytorch_model.bin")
    plan = check(MergeConfig("average", str(tmp_path / "base"), [str(tmp_path / "a")]))
    write_merge(plan, tmp_path / "out")
    merged, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert merged.lm_head.weight.data_ptr() == merged.transformer.wte.weight.data_ptr()
    torch.testing.assert_close(merged.state_dict(), model.state_dict(), rtol=0, atol=1e-7)


# Vocabularies


def test_vocabularies_that_differ_are_given_the_bases_rows_on_request(save, tmp_path):
    base = {"embed.weight": torch.randn(5, 2), "lm_head.bias": torch.randn(5), "w": torch.randn(3)}
    longer = {"embed.weight": torch.randn(7, 2), "lm_head.bias": torch.randn(6), "w": torch.randn(3)}
    shorter = {
        "embed.weight": torch.randn(3, 2).bfloat16(),
        "lm_head.bias": torch.randn(5),
        "w": torch.randn(3),
    }
    folders = [save("longer", longer), save("shorter", shorter)]
    config = MergeConfig("task_arithmetic", save("base", base), folders, scaling=1.0)
    with pytest.raises(UserError, match=r"the vocabularies differ.*vocabulary: base"):
        check(config)
    plan = check(MergeConfig("task_arithmetic", config.base, folders, scaling=1.0, vocabulary="base"))
    found = dict(engine.stream(plan))
    assert found["lm_head.bias"].equal(
        (longer["lm_head.bias"][:5] - base["lm_head.bias"]) + (shorter["lm_head.bias"] - base["lm_head.bias"])
    )
    first, last = longer["embed.weight"][:5] - base["embed.weight"], found["embed.weight"][3:]
    assert last.equal(first[3:]), "where a model has no row, it does not move the base's"
    moved = shorter["embed.weight"].float() - base["embed.weight"][:3]
    assert found["embed.weight"][:3].equal(first[:3] + moved)
    write_merge(plan, tmp_path / "out")
    assert read_manifest(tmp_path / "out")["vocabulary"] == "base"


def test_the_bases_rows_do_not_mend_other_shapes(save):
    base, model = (
        {"embed.weight": torch.zeros(5, 2), "w": torch.zeros(3)},
        {"embed.weight": torch.zeros(5, 4), "w": torch.zeros(4)},
    )
    config = MergeConfig("average", save("base", base), [save("a", model)], vocabulary="base")
    with pytest.raises(UserError, match=r"\[5, 4\].*1 more"):
        check(config)
    with pytest.raises(UserError, match="vocabulary: unknown 'bases'; did you mean 'base'"):
        check(MergeConfig("average", config.base, config.models, vocabulary="bases"))


@pytest.mark.parametrize("where", ["{}", '{{"text_config": {}}}'])
def test_quantized_weights_are_refused_since_codes_cannot_be_added_up(save, base_tensors, where):
    quantized = '{"quantization_config": {"quant_method": "bitsandbytes"}}'
    base = save("base", base_tensors)
    model = save("a", base_tensors, **{"config.json": where.format(quantized)})
    with pytest.raises(UserError, match=r"models.a: .*a/config.json: says that the weights are quantized"):
        check(MergeConfig("average", base, [model]))


@pytest.mark.parametrize("text", ["{x", "[]"])
def test_a_damaged_config_is_told_before_the_work(save, base_tensors, text):
    base = save("base", base_tensors, **{"config.json": text})
    with pytest.raises(UserError, match=r"base: .*base/config.json: is not"):
        check(MergeConfig("average", base, [save("a", base_tensors)], dtype="float16"))
