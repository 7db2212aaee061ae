"""The tokenizer of a model: loaded without running its code, and able to pad whatever the model is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import transformers

from saft.errors import UserError, as_user_error
from saft.files.checkpoint import model_config
from saft.files.links import inside
from saft.files.locations import folder as local_folder

__all__ = ["load_tokenizer", "table_size"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def load_tokenizer(location: str) -> Any:
    """Load the tokenizer that belongs to a model.

    A decoder's tokenizer often has no padding token: any token will do, since what is padding is masked.
    Padding goes to the right, so that the positions of a text do not depend on its neighbours in the batch.

    Args:
        location: a folder, a hub id, or package://...

    Raises:
        UserError: the folder holds only an adapter, no tokenizer, one that only code of its own can load or
            that has tokens which the model lacks, or links out of it.
    """
    folder = local_folder(location, "model.path")
    for file in (entry for entry in folder.iterdir() if not entry.is_dir()):
        inside(folder, file.name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"model {location}: holds an adapter, and not a whole model; copy config.json and the tokenizer "
            "of its base there, or add it to its base by a merge of "
            f"'BASE+{location}', and give the folder that comes out"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"model {location}: holds no tokenizer ({', '.join(TOKENIZER_FILES)}); copy the base model's"
        )
    size = table_size(folder, "vocab_size")  # checks config.json, which the tokenizer's class reads too
    with as_user_error(f"model {location}: its tokenizer cannot be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # Some tokenizers add a padding token of their own behind those that the model knows.
        if tokenizer.pad_token is None or tokenizer.pad_token_id >= size:
            others = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
            tokenizer.pad_token = next(token for token in others if token is not None)
        tokenizer.padding_side = "right"
        written = _written(tokenizer)
    if max(written) >= size:
        raise UserError(
            f"model {location}: its tokenizer writes token number {max(written)}, but the model has weights "
            f"for {size} tokens only (vocab_size in config.json); copy the tokenizer files of its base model"
        )
    return tokenizer


def _written(tokenizer: Any) -> list[int]:
    """Return the numbers of tokens that a tokenizer writes, its largest among them, after a first text.

    Some values of a damaged tokenizer_config.json are met only when a text is read, or cut.
    """
    tokenizer(["a", "some text"], padding=True, truncation=True, max_length=8)
    # Added tokens that no text has do no harm.
    numbers: list[int] = [tokenizer.vocab_size - 1, *tokenizer("")["input_ids"]]
    return numbers if tokenizer.unk_token_id is None else [*numbers, tokenizer.unk_token_id]


def table_size(folder: Path, key: str) -> int:
    """Return how many numbers the model in a folder has weights for, as far as its config.json says so.

    Args:
        folder: of the model.
        key: of config.json, or of the `text_config` in it: "vocab_size", "type_vocab_size".

    Returns:
        At least 1; the greatest there is where nothing is said, or that none are read.
    """
    settings = model_config(folder)
    inner = settings.get("text_config")
    size = settings.get(key, inner.get(key) if isinstance(inner, dict) else None)
    return size if isinstance(size, int) and size > 0 else sys.maxsize
