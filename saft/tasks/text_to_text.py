"""Text to text: an encoder-decoder answers a text by another; its language head is trunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import transformers
from torch import Tensor

from saft import config
from saft.config import Count
from saft.config.ranges import MOST, Range
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.models import max_tokens
from saft.tasks import TASKS
from saft.tasks.bound_language_task import BoundLanguageTask
from saft.tasks.examples import IGNORED, Batch, Examples
from saft.tasks.language_model import Parts, number, padded
from saft.tasks.language_task import LanguageTask, language_folder
from saft.tasks.table_source import TableSource
from saft.tasks.template import TemplateRow
from saft.tasks.text_examples import cut_length, note_cut
from saft.tasks.tokenizer import load_tokenizer
from saft.tasks.tokens import tokenized

__all__ = ["BoundTextToText", "TextToText"]


@TASKS.register("text_to_text")
@config.checked
@dataclass(frozen=True)
class TextToText(LanguageTask):
    """Answer a text by another, by an encoder-decoder such as T5."""

    data: TableSource
    """The table."""
    input: str
    """A template of what is given, for example "mnli premise: {premise} hypothesis: {hypothesis}"."""
    target: str
    """A template of the answer, for example "{label}"."""
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    """Column -> value in the data -> what stands for it in the templates."""
    options: str | list[str] | None = None
    """Answers to choose among, {option} in `target`, or {letter} for its letter from A, with {options}, the
    list "A. ..." in lines, in `input`: the column of their list, as endings, or choices.text, the list `text`
    inside a column `choices`; or one column for each, as [sol1, sol2]; null: those that `words` allow."""
    answer: str | None = None
    """The column that says which option is right: its number from 0, its letter, its text, or its label."""
    option_labels: str | list[str] | None = None
    """The column of lists of the options' labels, as choices.label; or the labels, as ["1", "2"]."""
    blank: str | None = None
    """The column of sentences with a blank, _, for the option: {before} and {after} it. With `input`
    "{before}{option}" and `target` "{after}", what follows the blank is compared."""
    metric_name: Literal[
        "exact_match", "choice", "choice_per_character", "spearman", "token_accuracy", "loss"
    ] = "exact_match"
    """What is measured; exact_match: of the answer, generated greedily; choice: whether the right one of
    `options`, or of the answers that `words` allow, is the likeliest by the log p of all its tokens, its end
    among them; choice_per_character: by that over its characters; spearman: rank correlation of the number
    generated."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 512
    """Inputs are cut to this many tokens, or to as many as the model has positions."""
    max_target_length: Count = 32
    """Answers are learned up to this many tokens, and no more are generated; all of one is compared."""

    follows = "target"

    def __post_init__(self) -> None:
        self.check_templates()

    @property
    def templates(self) -> dict[str, str]:
        """The templates, by their keys."""
        return {"input": self.input, "target": self.target}

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextToText:
        """Bind the task to an encoder-decoder: load its tokenizer; no input is longer than its positions.

        Raises:
            UserError: the model is not an encoder-decoder, its config or tokenizer lacks something, answers
                may be longer than its positions, or two to choose among are the same to its tokenizer.
        """
        folder = language_folder(model, "encoder-decoder", where)
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if (start := settings.decoder_start_token_id) is None:
            raise UserError(
                f"model {model.path}: its config.json does not say by which token an answer begins "
                "(decoder_start_token_id)"
            )
        longest = cut_length(model, self.max_length, where)
        tokenizer, positions = load_tokenizer(model.path), max_tokens(folder, MOST)
        at = torch.device(device)
        bound = BoundTextToText(self, name, model, where, at, tokenizer, longest, positions, start)
        bound.check_new_tokens("max_target_length")
        bound.check_answers()
        return bound

    def rows(self, where: str) -> dict[str, list[TemplateRow]]:
        """Return the rows of each split.

        Raises:
            UserError: the data lack something, or an answer is no number where numbers are ranked.
        """
        rows = self.filled(where)
        if self.metric_name == "spearman":
            for row in itertools.chain(*rows.values()):
                if number(row.texts["target"]) is None:
                    raise UserError(
                        f"{where}.target: {row.place} has {row.texts['target']!r:.60}, which holds no number "
                        "for metric_name: spearman to rank; fix the file, or take another metric"
                    )
        return rows


@dataclass(frozen=True)
class BoundTextToText(BoundLanguageTask[TextToText]):
    """Text to text with one model; see `saft.tasks.task.BoundTask`.

    Args:
        start: the token by which the decoder begins.
    """

    trunk_kind = "an encoder-decoder that answers"
    trunk_class = "AutoModelForSeq2SeqLM"
    _cuts_given = True
    start: int

    @property
    def new_tokens(self) -> int:
        """As many as an answer has at most."""
        return self.task.max_target_length

    @property
    def longest_answer(self) -> int:
        """As many as the decoder has positions."""
        return self.positions

    def facts(self) -> dict[str, Any]:
        """Return where inputs and answers are cut."""
        return {**self.resolved, "max_target_length": self.task.max_target_length}

    def _examples(self, rows: list[TemplateRow], training: bool) -> Examples:
        given, answers = self._inputs(rows), self._tokens([row.texts["target"] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            self._check_known(row.place, answer)
        longest = self.task.max_target_length
        whole = {row: ids for row, ids in enumerate(answers) if len(ids) > longest}
        places = [rows[row].place for row in whole]
        note_cut(f"{self.where}.max_target_length", longest, places, len(rows))
        pairs = [(ids, answer[:longest]) for ids, answer in zip(given, answers, strict=True)]
        return Examples(
            list(map(len, given)),
            lambda indices: self._batch([pairs[at] for at in indices]),
            whole=whole,
            choices=self._choices(rows),
        )

    def _inputs(self, rows: list[TemplateRow]) -> list[list[int]]:
        """Return the tokens of what is given in each row, cut with a note."""
        made = tokenized(self.tokenizer, [row.texts["input"] for row in rows], self.max_length)
        cut = [row.place for row, is_cut in zip(rows, made.cut, strict=True) if is_cut]
        note_cut(f"{self.where}.max_length", self.max_length, cut, len(rows))
        return made.inputs["input_ids"]

    def _prompts(self, rows: Sequence[TemplateRow]) -> list[list[int]]:
        texts = [row.texts["input"] for row in rows]
        return tokenized(self.tokenizer, texts, self.max_length).inputs["input_ids"]

    def _tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole answers, each with its end."""
        encoded = tokenized(self.tokenizer, answers, answers=True).inputs["input_ids"]
        end = self.tokenizer.eos_token_id
        return [ids if ids[-1:] == [end] or end is None else [*ids, end] for ids in encoded]

    def _batch(self, parts: Sequence[Parts]) -> Batch:
        """Return a batch of inputs and answers; the decoder reads each answer one token late."""
        pad = self.tokenizer.pad_token_id
        given, answers = [ids for ids, _ in parts], [ids for _, ids in parts]
        late = [[self.start, *ids[:-1]] for ids in answers]
        inputs = {
            "input_ids": padded(given, pad),
            "attention_mask": padded([[1] * len(ids) for ids in given], 0),
            "decoder_input_ids": padded(late, pad),
        }
        return Batch(inputs, padded(answers, IGNORED))

    def _places(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = inputs["decoder_input_ids"]
        places: Tensor = ids != self.tokenizer.pad_token_id
        places[:, 0] = True  # the token by which the decoder begins may be that of the padding
        return places

    def _parts(self, batch: Batch) -> list[Parts]:
        given = [
            ids[: sum(mask)]
            for ids, mask in zip(
                batch.inputs["input_ids"].tolist(), batch.inputs["attention_mask"].tolist(), strict=True
            )
        ]
        answers = [[token for token in row if token != IGNORED] for row in batch.labels.tolist()]
        return list(zip(given, answers, strict=True))

    def _given(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
