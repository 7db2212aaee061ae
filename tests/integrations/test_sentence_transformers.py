"""sentence-transformers' trainer under the mixin: the weights of SAM, and the parts of the loss counted once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from torch import nn

from saft.integrations.transformers import SharpnessAwareMixin
from saft.optim import is_replay

st = pytest.importorskip("sentence_transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Parts(nn.Module):
    """A loss of two parts, which the trainer logs one by one; notes which pass asks for them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.calls: list[bool] = []

    def forward(self, features: Any, labels: Any) -> dict[str, torch.Tensor]:
        self.calls.append(is_replay())
        left, right = (self.model(feature)["sentence_embedding"] for feature in features)
        return {"near": (left - right).square().mean(), "small": left.abs().mean()}


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_of_the_loss_are_those_at_w(parts: int, tiny_model: Path, tmp_path: Path) -> None:
    class Mine(SharpnessAwareMixin, st.SentenceTransformerTrainer):  # type: ignore[misc, name-defined]
        pass

    data = Dataset.from_dict({"a": ["the cat", "a dog"] * 8, "b": ["a bird", "the fish"] * 8})
    logs, calls = [], []
    for kind, more in ((st.SentenceTransformerTrainer, {}), (Mine, {"sharpness_aware": {"rho": 1.0}})):
        torch.manual_seed(0)
        model = st.SentenceTransformer(str(tiny_model), device="cpu")  # with mean pooling
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        arguments = st.SentenceTransformerTrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=parts,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
        )
        loss = Parts(model)
        trainer = kind(model=model, args=arguments, train_dataset=data, loss=loss, **more)
        trainer.train()
        logs.append(trainer.state.log_history)
        calls.append(loss.calls)
    assert calls[1] == 2 * ([False] * parts + [True] * parts)
    plain, sharpness_aware = logs
    assert {"near", "small", "loss"} <= plain[0].keys()
    for key in ("near", "small", "loss"):
        assert sharpness_aware[0][key] == pytest.approx(plain[0][key], rel=1e-4)
        assert sharpness_aware[1][key] != pytest.approx(plain[1][key], rel=1e-6)


def sentence_model(tiny_model: Path, seed: int, pooling: str = "mean") -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    trunk = Transformer(str(tiny_model))
    modules = [trunk, Pooling(32, pooling_mode=pooling), Dense(32, 8), Normalize()]
    model = st.SentenceTransformer(modules=modules, device="cpu", prompts={"query": "the "})
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters() if seed else ():
            weight += 0.01 * torch.randn_like(weight)
    return model.eval()


def test_a_folder_with_its_modules_merges_and_loads_as_one(tiny_model: Path, tmp_path: Path) -> None:
    import saft
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    base, a, b = (sentence_model(tiny_model, seed) for seed in range(3))
    folders = {}
    for name, model in (("base", base), ("a", a), ("b", b)):
        model.save_pretrained(str(tmp_path / name))
        folders[name] = str(tmp_path / name)
    experts = {name: folders[name] for name in "ab"}
    config = saft.MergeConfig("task_arithmetic", folders["base"], experts, scaling=0.5, shard_size="20KB")
    saft.merge(config, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()

    found = st.SentenceTransformer(str(tmp_path / "out"), device="cpu").eval()
    assert found.prompts["query"] == "the "
    assert [type(module) for module in found] == [type(module) for module in base]
    expected = base[2].linear.weight + 0.5 * (
        a[2].linear.weight + b[2].linear.weight - 2 * base[2].linear.weight
    )
    torch.testing.assert_close(found[2].linear.weight, expected)

    in_memory = merge_sentence_transformers(base, {"a": a, "b": folders["b"]}, "task_arithmetic", scaling=0.5)
    texts = ["the red whale", "a small ant"]
    assert torch.equal(*(torch.tensor(model.encode(texts)) for model in (found, in_memory)))
    assert in_memory.prompts == base.prompts
    in_memory.save_pretrained(str(tmp_path / "again"))
    again = st.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert torch.equal(torch.tensor(again.encode(texts)), torch.tensor(found.encode(texts)))


def test_modules_that_are_set_otherwise_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import saft
    from saft.errors import UserError
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    base, other = sentence_model(tiny_model, 0), sentence_model(tiny_model, 1, "cls")
    for name, model in (("base", base), ("other", other)):
        model.save_pretrained(str(tmp_path / name))
    with pytest.raises(UserError, match=r"models.x: Pooling: pooling_mode.* is .*cls.*, in the base"):
        merge_sentence_transformers(base, {"x": other}, "average")
    config = saft.MergeConfig("average", str(tmp_path / "base"), {"x": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"models.x: .*other/1_Pooling: pooling_mode"):
        saft.merge(config, None, check_only=True)
    for name, modules in (("base", [base[0], base[1], base[3]]), ("other", list(base)[:2])):
        st.SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / name))
    config = saft.MergeConfig("average", str(tmp_path / "base"), {"x": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"modules without weights are Pooling, in the base .* Pooling, Norm"):
        saft.merge(config, None, check_only=True)
    shorter = st.SentenceTransformer(modules=list(base)[:2], device="cpu")
    with pytest.raises(UserError, match=r"models.x: has the modules Transformer, Pooling, the base"):
        merge_sentence_transformers(base, {"x": shorter}, "average")


def test_modules_in_another_order_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import saft
    from saft.errors import UserError

    for name, seed in (("base", 0), ("other", 1)):
        sentence_model(tiny_model, seed).save_pretrained(str(tmp_path / name))
    place = tmp_path / "other" / "modules.json"
    first, pooling, dense, *rest = json.loads(place.read_text())
    place.write_text(json.dumps([first, dense, pooling, *rest]))
    config = saft.MergeConfig("average", str(tmp_path / "base"), {"x": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"its modules come in the order 2_Dense, 1_Pooling.*1_Pooling, 2_D"):
        saft.merge(config, None, check_only=True)


def test_other_prompts_than_the_bases_are_told(tiny_model: Path, tmp_path: Path) -> None:
    import saft
    from saft.errors import Note
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    base, other = sentence_model(tiny_model, 0), sentence_model(tiny_model, 1)
    base.prompts, other.prompts = {"query": "find ", "document": ""}, {"query": "look for "}
    other.similarity_fn_name = "dot"
    for name, model in (("base", base), ("other", other)):
        model.save_pretrained(str(tmp_path / name))
    expected = [
        "models.x: was made with similarity_fn_name 'dot', the base with 'cosine'; the merged model has the "
        "base's",
        "models.x: was made with prompts {'query': 'look for '}, the base with {'query': 'find '}; the merged "
        "model has the base's",
    ]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", Note)
        merged = merge_sentence_transformers(base, {"x": other}, "average")
        merge_sentence_transformers(other, {"x": other}, "average")  # of which nothing is told
    assert [str(warning.message) for warning in warned if warning.category is Note] == expected
    assert merged.prompts == base.prompts
    config = saft.MergeConfig("average", str(tmp_path / "base"), {"x": str(tmp_path / "other")})
    assert saft.merge(config, None, check_only=True).notes == tuple(expected)


def test_a_module_that_is_left_out_may_be_set_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    import saft

    base, other = sentence_model(tiny_model, 0), sentence_model(tiny_model, 1)
    other[2] = Dense(32, 4)
    for name, model in (("base", base), ("other", other)):
        model.save_pretrained(str(tmp_path / name))
    models = {"x": str(tmp_path / "other")}
    saft.merge(
        saft.MergeConfig("average", str(tmp_path / "base"), models, exclude=["2_Dense/*"]), tmp_path / "out"
    )
    found = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert torch.equal(found[2].linear.weight, base[2].linear.weight)


def test_a_router_whose_routes_began_alike_is_merged_in_memory(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer

    import saft
    from saft.errors import UserError
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    def routed(change: float) -> Any:
        query, document = (Transformer(str(tiny_model)) for _ in range(2))
        router = Router.for_query_document([query, Pooling(32)], [document, Pooling(32)])
        with torch.no_grad():
            for weight in query.parameters():
                weight += change
        return st.SentenceTransformer(modules=[router], device="cpu").eval()

    base, a, b = routed(0.0), routed(1.0), routed(-0.5)
    merged = merge_sentence_transformers(base, {"a": a, "b": b}, "average")
    name = "0.sub_modules.{}.0.model.embeddings.word_embeddings.weight"
    states = [model.state_dict() for model in (merged, base)]
    torch.testing.assert_close(states[0][name.format("query")], states[1][name.format("query")] + 0.25)
    assert torch.equal(*(state[name.format("document")] for state in states))
    base.save_pretrained(str(tmp_path / "base"))
    with pytest.raises(
        UserError, match=r"base: .*has its weights in document_0_Transformer, query_0_Tr.* mem"
    ):
        saft.merge(saft.MergeConfig("average", str(tmp_path / "base"), {"x": "x"}), None, check_only=True)


def test_an_adapter_in_the_trunk_is_merged_with_the_modules_beside_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    import peft

    import saft
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    base, adapted = sentence_model(tiny_model, 0), sentence_model(tiny_model, 0)
    base.save_pretrained(str(tmp_path / "base"))
    settings = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    adapted[0].model = peft.get_peft_model(adapted[0].model, settings)
    with torch.no_grad():
        adapted[2].linear.weight += 1.0  # trained with the adapter
    adapted.save_pretrained(str(tmp_path / "adapted"))
    texts = ["the red whale", "a small ant"]
    expected = torch.tensor(adapted.eval().encode(texts))

    in_memory = merge_sentence_transformers(base, {"x": adapted}, "average")
    config = saft.MergeConfig("average", str(tmp_path / "base"), {"x": str(tmp_path / "adapted")})
    saft.merge(config, tmp_path / "out")
    found = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    for merged in (in_memory, found):
        torch.testing.assert_close(torch.tensor(merged.encode(texts)), expected)
    states = [model.state_dict() for model in (in_memory, found)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_names_and_so_the_random_masks_are_those_of_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    import saft
    from saft.integrations.merge_in_training import MergeWith

    base, a, b = (sentence_model(tiny_model, seed) for seed in range(3))
    for name, model in (("base", base), ("a", a), ("b", b)):
        model.save_pretrained(str(tmp_path / name))
    folders = {name: str(tmp_path / name) for name in "ab"}
    options: Any = {"parameters": {"density": 0.5}, "exclude": ["2_Dense/linear.bias"]}
    saft.merge(saft.MergeConfig("dare", str(tmp_path / "base"), folders, **options), tmp_path / "out")
    expected = st.SentenceTransformer(str(tmp_path / "out"), device="cpu").state_dict()
    merged = saft.merge_models(base, {"a": a, "b": b}, "dare", **options).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    with MergeWith(str(tmp_path / "base"), {"b": folders["b"]}, "dare", options, "a").in_place_of(a):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in a.state_dict().items())


def test_what_is_no_list_of_models_of_sentence_transformers_is_refused(tiny_model: Path) -> None:
    from saft.errors import UserError
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    base: Any = sentence_model(tiny_model, 0)
    with pytest.raises(UserError, match=r"models: is a single model, a SentenceTransformer; give \[model\]"):
        merge_sentence_transformers(base, base, "average")
    with pytest.raises(UserError, match=r"models.x: is a NoneType; give a SentenceTransformer or a folder"):
        merge_sentence_transformers(base, {"x": None}, "average")  # type: ignore[dict-item]


def test_folders_that_sentence_transformers_cannot_load_are_all_told(
    tiny_model: Path, tmp_path: Path
) -> None:
    from saft.errors import UserError
    from saft.integrations.sentence_transformers import merge_sentence_transformers

    nowhere, empty, damaged = tmp_path / "nowhere", tmp_path / "empty", tmp_path / "damaged"
    empty.mkdir()
    sentence_model(tiny_model, 0).save_pretrained(str(damaged))
    (damaged / "2_Dense" / "config.json").unlink()
    models = {"a": sentence_model(tiny_model, 0), "b": empty, "c": damaged}
    with pytest.raises(UserError) as told:
        merge_sentence_transformers(nowhere, models, "average")
    assert [text.partition("' cannot be loaded by")[0] for text in told.value.problems] == [
        f"base: '{nowhere}",
        f"models.b: '{empty}",
        f"models.c: '{damaged}",
    ]
