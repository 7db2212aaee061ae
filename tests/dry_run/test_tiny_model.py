from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from saft.dry_run.tiny_model import architecture, write_model
from saft.errors import UserError


@pytest.mark.parametrize(
    ("path", "keys", "kind"),
    [
        ("openai/clip-vit-base-patch32", {"kind": "image_classification", "head": "linear"}, "clip"),
        ("a/dinov2", {"kind": "image_classification", "head": "prototype"}, "vit"),
        ("google/flan-t5-base", {"kind": "text_to_text"}, "t5"),
        ("meta-llama/Llama-3.2-3B", {"kind": "language_modeling"}, "llama"),
        ("FacebookAI/roberta-base", {"kind": "text_classification"}, "roberta"),
        ("gpt2", {"kind": "text_classification"}, "gpt2"),
        ("x", {"kind": "text_regression"}, "bert"),
    ],
)
def test_the_architecture_follows_from_tasks_and_name(path: str, keys: dict[str, Any], kind: str) -> None:
    assert architecture(path, {"task": keys}) == kind


def test_tasks_of_kinds_that_no_model_has_together_are_refused() -> None:
    tasks = {"a": {"kind": "text_to_text"}, "b": {"kind": "image_classification"}}
    with pytest.raises(UserError, match="no tiny model for tasks of the kinds image_classification, text_to"):
        architecture("x", tasks)


def test_a_byte_is_a_token_and_texts_end(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("añ b")["input_ids"]
    assert len(ids) == len("añ b".encode()) + 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "añ b"
    assert write_model(folder, "bert") == folder


def test_the_form_of_a_processor_that_needs_torchvision_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else transformers tells whoever tries a recipe to install it."""
    for name in ("CLIPImageProcessor", "ViTImageProcessor"):
        monkeypatch.delitem(vars(transformers), name, raising=False)
    write_model(tmp_path / "clip", "clip")
    write_model(tmp_path / "vit", "vit")
    assert not {"CLIPImageProcessor", "ViTImageProcessor"} & vars(transformers).keys()
