"""A tiny model, tokenizer and data set, made on the spot: everything runs offline in seconds."""

from __future__ import annotations

import csv
import gc
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

# Read when the libraries below are imported, here and in the commands that tests start: a CPU gives other bits
# with another number of threads, small tensors are slower on two, and two test processes would fight over them.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ["TERM"] = (
    "xterm-256color"  # a terminal as most are, wherever the tests run: rich has no bold on a dumb one
)

import torch
import transformers

collect_ignore = ["golden/mergekit/make.py"]  # needs mergekit, in an environment of its own


def pytest_collection_finish() -> None:
    """Keep what the libraries and 9000 tests consist of out of each later collection of garbage: 0.6 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _not_waiting_for_the_disk() -> Iterator[None]:
    """Leave out what only a power cut could show: a test waits milliseconds for each of thousands of files.

    The processes that tests start do wait, among them those that are killed at every call.
    """

    def checked(file: Any) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", checked)
        yield


COLOURS = {
    "red": ["rose", "blood", "brick"],
    "blue": ["sky", "sea", "ink"],
    "green": ["leaf", "grass", "moss"],
}
SIZES = {"big": ["whale", "tower", "hill"], "small": ["ant", "crumb", "dot"]}
FILLER = ["the", "a", "of", "and", "thing", "is", "very", "near"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a BERT of two layers of width 32, with a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = [word for group in (COLOURS, SIZES) for label, some in group.items() for word in [label, *some]]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLER]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    transformers.BertModel(settings).save_pretrained(folder)
    return folder


def _write_table(file: Path, groups: dict[str, list[str]], count: int, seed: int) -> None:
    draw = random.Random(seed)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(count):
            label = draw.choice(sorted(groups))
            words = [draw.choice(groups[label]), *draw.choices(FILLER, k=draw.randrange(2, 6))]
            draw.shuffle(words)
            writer.writerow([" ".join(words), label])


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return two easy tasks, as the YAML mapping `tasks:` would hold them."""
    folder = tmp_path_factory.mktemp("data")
    mappings = {}
    for number, (name, groups) in enumerate((("colour", COLOURS), ("size", SIZES))):
        _write_table(folder / f"{name}-train.csv", groups, 120, seed=number)
        _write_table(folder / f"{name}-test.csv", groups, 60, seed=100 + number)
        mappings[name] = {
            "kind": "text_classification",
            "data": {
                "path": "csv",
                "files": {split: str(folder / f"{name}-{split}.csv") for split in ("train", "test")},
                "text": "text",
                "label": "label",
            },
            "labels": {label: label for label in groups},
            "prompts": ["a {} thing"],
            "max_length": 16,
        }
    return mappings


CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [END] {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def _word_tokenizer(folder: Path) -> int:
    """Write a tokenizer of whole words, as causal models have it: with an end of text and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    some = [word for group in (COLOURS, SIZES) for label, words in group.items() for word in [label, *words]]
    vocabulary = [
        "[UNK]",
        "[END]",
        "[PAD]",
        "[user]",
        "[assistant]",
        "[system]",
        ":",
        *some,
        *FILLER,
        *"0123",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        eos_token="[END]",
        pad_token="[PAD]",
        additional_special_tokens=["[user]", "[assistant]", "[system]"],
    )
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a Llama of two layers of width 32, whose language head is a tensor of its own."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=_word_tokenizer(folder),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a GPT-2 of two layers of width 32, with dropout, and its head tied."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=_word_tokenizer(folder),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.GPT2LMHeadModel(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a T5 of two layers of width 32."""
    folder = tmp_path_factory.mktemp("tiny-t5")
    torch.manual_seed(0)
    settings = transformers.T5Config(
        vocab_size=_word_tokenizer(folder),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=2,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.T5ForConditionalGeneration(settings).save_pretrained(folder)
    return folder


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Return step -> a context whose training is interrupted once the checkpoint of that step may be written."""
    from saft.training.callbacks import SaveEvery

    save = SaveEvery.on_train_batch_end

    @contextmanager
    def context(step: int) -> Iterator[None]:
        def interrupt(self: SaveEvery, trainer: Any, *rest: Any) -> None:
            save(self, trainer, *rest)
            if trainer.global_step == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(SaveEvery, "on_train_batch_end", interrupt)
            with pytest.raises(KeyboardInterrupt):
                yield

    return context


class Hub:
    """Stands for the hub: remembers what is asked of it, and refuses what `refuses` names."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refuses: dict[str, Exception] = {}
        self.role = "write"

    def asked(self) -> list[str]:
        return [what for what, _ in self.calls]

    def _call(self, what: str, told: Any = None) -> None:
        self.calls.append((what, told))
        if what in self.refuses:
            raise self.refuses[what]

    def whoami(self) -> dict[str, Any]:
        self._call("whoami")
        return {"name": "anna", "auth": {"accessToken": {"role": self.role}}}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self._call("create_repo", (repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def auth_check(self, repo_id: str, *, write: bool = False) -> None:
        self._call("auth_check", (repo_id, write))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **more: Any) -> None:
        files = (file for file in folder_path.rglob("*") if file.is_file())
        names = sorted(str(file.relative_to(folder_path)) for file in files)
        self._call("upload_folder", (repo_id, names, more))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return what stands for the hub in this test."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("saft.progress._noted", set())
    return hub
