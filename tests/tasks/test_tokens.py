from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from saft.tasks import tokens
from saft.tasks.tokenizer import load_tokenizer
from saft.tasks.tokens import Tokens, tokenized

WORDS = ["red", "rose", "blue", "sky", "green", "leaf", "the", "a", "of", "very"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep texts from the first character on, in a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LEAST", 1)
    return tmp_path / "cache" / "saft" / "tokens"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many texts the tokenizer was asked for, call by call."""
    counts = list[int]()
    real = tokens._tokenized

    def counted(tokenizer: Any, texts: Any, *rest: Any) -> Tokens:
        counts.append(len(texts))
        return real(tokenizer, texts, *rest)

    monkeypatch.setattr(tokens, "_tokenized", counted)
    return counts


def texts(count: int = 40) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(
    ("given", "max_length", "options"),
    [
        (texts(), 8, {}),
        (list(zip(texts(), reversed(texts()), strict=True)), 8, {}),
        (texts(), None, {"add_special_tokens": False}),
        (texts(), None, {"answers": True}),
        (texts()[:3] * 4, 100, {}),
        ([], 8, {}),
    ],
)
def test_what_is_kept_is_what_the_tokenizer_writes(
    given: Any, max_length: int | None, options: dict[str, bool], tiny_t5: Path, made: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokenizer = load_tokenizer(str(tiny_t5))
    kept = [tokenized(tokenizer, given, max_length, **options) for _ in range(2)]
    assert len(made) == (1 if given else 0)
    monkeypatch.setattr(tokens, "LEAST", 1 << 20)
    assert kept == [tokenized(tokenizer, given, max_length, **options)] * 2
    assert any(kept[0].cut) == (max_length == 8 and bool(given))


def test_the_order_of_the_texts_is_of_no_matter(tiny_model: Path, made: list[int]) -> None:
    given, tokenizer = texts(), load_tokenizer(str(tiny_model))
    first = tokenized(tokenizer, given, 8)
    other = tokenized(tokenizer, given[::-1], 8)
    assert made == [len(set(given))]
    assert other.inputs["input_ids"] == first.inputs["input_ids"][::-1]
    assert other.cut == first.cut[::-1]


def shorter(folder: Path) -> dict[str, Any]:
    return {"max_length": 7}


def without_specials(folder: Path) -> dict[str, Any]:
    return {"add_special_tokens": False}


def another_text(folder: Path) -> dict[str, Any]:
    return {"texts": [*texts()[:-1], "a"]}


def as_pairs(folder: Path) -> dict[str, Any]:
    return {"texts": [(text, "a") for text in texts()]}


def another_vocabulary(folder: Path) -> dict[str, Any]:
    """Change the file in its place, in the same number of bytes."""
    for file in folder.iterdir():
        if file.name in ("vocab.txt", "tokenizer.json"):
            file.write_text(file.read_text().replace("rose", "roze"))
    return {"tokenizer": load_tokenizer(str(folder))}


def cut_on_the_left(folder: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.truncation_side = "left"
    return {"tokenizer": tokenizer}


@pytest.mark.parametrize(
    "change", [shorter, without_specials, another_text, as_pairs, another_vocabulary, cut_on_the_left]
)
def test_whatever_the_tokens_depend_on_is_never_stale(
    change: Callable[[Path], dict[str, Any]], tiny_model: Path, tmp_path: Path, made: list[int]
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    usual = {"tokenizer": load_tokenizer(str(folder)), "texts": texts(), "max_length": 8}
    first = tokenized(**usual)
    changed = usual | change(folder)
    second = tokenized(**changed)
    assert len(made) == 2
    assert second != first
    assert tokenized(**usual) == first
    assert tokenized(**changed) == second
    assert len(made) == 2


def test_an_answer_in_another_language_is_another_one() -> None:
    tokenizer = transformers.NllbTokenizer(src_lang="eng_Latn", tgt_lang="fra_Latn")
    for language in ("fra_Latn", "deu_Latn"):
        tokenizer.tgt_lang = language
        [answer] = tokenized(tokenizer, ["a"], answers=True).inputs["input_ids"]
        assert tokenizer.convert_ids_to_tokens(answer[0]) == language


def test_the_same_tokenizer_in_another_folder_is_the_same(
    tiny_model: Path, tmp_path: Path, made: list[int]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for place in (tiny_model, folder):
        tokenizer = load_tokenizer(str(place))
        tokenizer(["a b", "c"], padding=True, truncation=True, max_length=3)  # leaves a state behind
        tokenized(tokenizer, texts(), 8)
    assert len(made) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_what_is_not_whole_is_made_again(damage: str, tiny_model: Path, cache: Path, made: list[int]) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    whole = tokenized(tokenizer, texts(), 8)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "other":
        tokenized(tokenizer, texts()[:5], 8)
        (other,) = (path for path in cache.iterdir() if path != file)
        content = other.read_bytes()
    file.write_bytes({"cut": content[:-9], "empty": b"", "other": content}[damage])
    made.clear()
    assert tokenized(tokenizer, texts(), 8) == whole
    assert len(made) == 1
    assert tokenized(tokenizer, texts(), 8) == whole
    assert len(made) == 1


def test_where_nothing_can_be_written_texts_are_tokenized_every_time(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made below a file
    tokenizer = load_tokenizer(str(tiny_model))
    assert tokenized(tokenizer, texts(), 8) == tokenized(tokenizer, texts(), 8)
    assert len(made) == 2


def test_few_texts_are_not_kept(
    tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    monkeypatch.setattr(tokens, "LEAST", 1 << 20)
    tokenizer = load_tokenizer(str(tiny_model))
    tokenized(tokenizer, texts(), 8)
    assert not cache.exists()


def test_what_was_not_read_for_longest_makes_room(
    tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    for start in (0, 1):
        tokenized(tokenizer, texts()[start:], 8)
    (size, *_) = sorted(file.stat().st_size for file in cache.iterdir())
    tokenized(tokenizer, texts(), 8)  # read: the other one is older now
    monkeypatch.setattr(tokens, "CAP", int(2.5 * size))
    tokenized(tokenizer, texts()[2:], 8)
    made.clear()
    tokenized(tokenizer, texts(), 8)
    assert not made
    tokenized(tokenizer, texts()[1:], 8)
    assert made


def test_every_kind_of_text_has_the_same_examples_from_the_cache(
    tiny_tasks: dict[str, dict[str, Any]], tiny_model: Path, tiny_llama: Path, tiny_t5: Path,
    made: list[int],
) -> None:  # fmt: skip
    from saft import tasks
    from saft.model_config import ModelConfig
    from saft.tasks import Limits

    data = tiny_tasks["colour"]["data"]
    plain = {key: data[key] for key in ("path", "files")}
    words = {"words": {"label": {"red": "red", "blue": "blue", "green": "green"}}, "max_length": 9}
    kinds: list[tuple[dict[str, Any], Path]] = [
        (tiny_tasks["colour"], tiny_model),
        (tiny_tasks["colour"] | {"kind": "text_classification", "max_length": 5}, tiny_model),
        (
            {"kind": "language_modeling", "data": plain, "prompt": "{text}", "completion": "{label}"} | words,
            tiny_llama,
        ),
        ({"kind": "text_to_text", "data": plain, "input": "{text}", "target": "{label}"} | words, tiny_t5),
    ]
    for declared, model in kinds:
        task = tasks.build("t", declared, "t").bind("t", ModelConfig(str(model)), "t")
        batches = []
        for _ in range(2):
            splits = task.examples(Limits(20, 10, 10))
            batches.append(
                [part.collate(list(range(10))) for part in (splits.train, splits.validation, splits.test)]
            )
            made.append(-1)
        assert made.index(-1) > 0
        assert made[made.index(-1) :] == [-1, -1]
        made.clear()
        first, second = (
            json.dumps([[{k: v.tolist() for k, v in b.inputs.items()}, b.labels.tolist()] for b in part])
            for part in batches
        )
        assert first == second
