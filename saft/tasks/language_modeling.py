"""Language modeling: a causal model continues texts, prompts or conversations; its language head is trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from saft import config
from saft.config import Count
from saft.config.ranges import MOST, Range
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.models import max_tokens
from saft.tasks import TASKS
from saft.tasks.bound_language_task import BoundLanguageTask
from saft.tasks.causal_batch import (
    Encoded,
    causal_batch,
    continued,
    last_turn,
    prompts,
    whole_turn,
    with_labels,
)
from saft.tasks.causal_tokenizer import CausalTokenizer
from saft.tasks.conversation import Segment, segments
from saft.tasks.examples import Batch, Examples
from saft.tasks.language_model import LanguageModel, Parts, token_mask
from saft.tasks.language_task import LanguageTask, language_folder
from saft.tasks.packing import check_separation, pack, packed_batch
from saft.tasks.table_source import TableSource, divide, load
from saft.tasks.table_split import without_fillers
from saft.tasks.template import TemplateRow
from saft.tasks.text_examples import cut_length, note_cut
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["BoundLanguageModeling", "LanguageModeling"]

Row = tuple[str, TemplateRow | list[Any]]
"""A row's place, for messages, and its texts or its conversation."""


@TASKS.register("language_modeling")
@config.checked
@dataclass(frozen=True)
class LanguageModeling(LanguageTask):
    """Continue a text, a prompt or a conversation, by a causal model such as Llama.

    Of a prompt and a completion only the completion is learned, of a conversation what the assistant says.
    """

    data: TableSource
    """The table."""
    text: str | None = None
    """A template of whole texts to learn, for example "{word}: {gloss}"."""
    prompt: str | None = None
    """A template of what is given, for example "{question}\\nAnswer:"."""
    completion: str | None = None
    """A template of what is to follow the prompt, for example " {answer}"."""
    messages: str | None = None
    """The column of conversations: lists of {role, content}, written by the model's own chat template."""
    chat: bool = False
    """Write prompt and completion as a conversation, by the model's own chat template."""
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    """Column -> value in the data -> what stands for it in the templates."""
    options: str | list[str] | None = None
    """Answers to choose among, {option} in `completion`, or {letter} for its letter from A, with {options},
    the list "A. ..." in lines, in `prompt`: the column of their list, as endings, or choices.text, the list
    `text` inside a column `choices`; or one column for each, as [sol1, sol2]; null: those that `words`
    allow."""
    answer: str | None = None
    """The column that says which option is right: its number from 0, its letter, its text, or its label."""
    option_labels: str | list[str] | None = None
    """The column of lists of the options' labels, as choices.label; or the labels, as ["1", "2"]."""
    blank: str | None = None
    """The column of sentences with a blank, _, for the option: {before} and {after} it. With `prompt`
    "{before}{option}" and `completion` "{after}", what follows the blank is compared."""
    metric_name: Literal[
        "loss", "perplexity", "token_accuracy", "exact_match", "choice", "choice_per_character"
    ] = "loss"
    """What is measured; exact_match: of the completion, generated greedily; choice: whether the right one of
    `options`, or of the completions that `words` allow, is the likeliest by the log p of all its tokens, its
    end among them; choice_per_character: by that over its characters."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 512
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    max_new_tokens: Count = 32
    """exact_match generates at most this many tokens."""
    drop_long: bool = False
    """Leave out rows of which `max_length` leaves nothing to learn, instead of refusing them."""
    packing: bool = False
    """Put several training texts into one row of at most `max_length` tokens; none sees another."""

    follows = "completion"

    def __post_init__(self) -> None:
        given = [key for key in ("text", "prompt", "messages") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "one of text, prompt (with completion) and messages says what is learned, but "
                + (f"{' and '.join(given)} are given" if given else "none is given")
            )
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion belong together, but only one is given")
        if self.chat and self.prompt is None:
            raise ValueError("chat: is for a prompt and a completion")
        if (self.metric_name == "exact_match" or self.chooses) and self.text is not None:
            raise ValueError(f"metric_name: {self.metric_name} needs a prompt; of texts measure the loss")
        self.check_templates()

    @property
    def templates(self) -> dict[str, str]:
        """The templates that are given, by their keys."""
        all_of_them = {"text": self.text, "prompt": self.prompt, "completion": self.completion}
        return {key: template for key, template in all_of_them.items() if template is not None}

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundLanguageModeling:
        """Bind the task to a causal model: load its tokenizer; no text is longer than its positions.

        Raises:
            UserError: the model is not a causal one, has fewer positions than tokens are to be generated, or
                its tokenizer is missing, has no chat template or does not tell the answers to choose among
                apart.
        """
        folder = language_folder(model, "causal", where)
        tokenizer = load_tokenizer(model.path)
        if (self.chat or self.messages) and not tokenizer.chat_template:
            raise UserError(
                f"{where}.{'chat' if self.chat else 'messages'}: the tokenizer of {model.path} has no chat "
                "template; take an instruction-tuned model, or write prompt and completion without `chat`"
            )
        positions = max_tokens(folder, MOST)
        longest = cut_length(model, self.max_length, where)
        at = torch.device(device)
        bound = BoundLanguageModeling(self, name, model, where, at, tokenizer, longest, positions)
        if self.metric_name == "exact_match":
            bound.check_new_tokens("max_new_tokens")
        bound.check_answers()
        return bound

    def rows(self, where: str) -> dict[str, list[Row]]:
        """Return the rows of each split.

        Raises:
            UserError: the data lack something, or a row holds no conversation where one is meant.
        """
        if self.messages is None:
            return {split: [(row.place, row) for row in rows] for split, rows in self.filled(where).items()}
        read: dict[str, list[Row]] = {}
        for split, part in load(self.data, where).items():
            part.check_columns([("messages", self.messages)])
            values = part.values(self.messages)
            for row, value in enumerate(values):
                if not (value is None or value == "" or isinstance(value, list)):
                    raise UserError(
                        f"{where}.messages: {part.place(row)} holds {value!r:.60}, which is no list; name a "
                        "column of lists of messages, {role, content}"
                    )
            used = part.present({f"messages.{self.messages}": values})
            kind = part.rows.features[self.messages]
            read[split] = [
                (part.place(row), without_fillers(values[row], kind, kept=["content"])) for row in used
            ]
        return divide(read, self.data, where)


@dataclass(frozen=True)
class BoundLanguageModeling(BoundLanguageTask[LanguageModeling]):
    """Language modeling with one model; see `saft.tasks.task.BoundTask`."""

    trunk_kind = "a causal language model"
    trunk_class = "AutoModelForCausalLM"

    @property
    def text(self) -> CausalTokenizer:
        """Writes texts as tokens."""
        return CausalTokenizer(self.tokenizer, templated=self.task.chat or self.task.messages is not None)

    @property
    def pad(self) -> int:
        """The padding token."""
        token: int = self.tokenizer.pad_token_id
        return token

    @property
    def new_tokens(self) -> int:
        """As many as the task says."""
        return self.task.max_new_tokens

    @property
    def longest_answer(self) -> int:
        """As many as the model has positions, but one for what is given."""
        return self.positions - 1

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> LanguageModel:
        """Return the trunk as it is: it has its language head."""
        model = super().model(trunk, head_from)
        if self.task.packing and head_from is None:
            check_separation(model, self.where)
        return model

    def facts(self) -> dict[str, Any]:
        """Return what is learned, where texts are cut, and whether they are packed."""
        learned = "whole texts" if self.task.text else "completions"
        return {"learned": learned, **self.resolved, "packing": self.task.packing}

    def _examples(self, rows: list[Row], training: bool) -> Examples:
        kept, texts, whole = self._encoded(rows)
        if rows and not kept:
            raise UserError(
                f"{self.where}.drop_long: leaves none of {len(rows)} rows, such as {rows[0][0]}: "
                f"the first {self.max_length} tokens of each hold nothing to learn; raise max_length"
            )
        if training and self.task.packing:
            return self._packed(texts)
        filled = [row for _, row in kept if isinstance(row, TemplateRow)]
        return Examples(
            [len(tokens) for tokens, _ in texts],
            lambda indices: causal_batch([texts[index] for index in indices], self.pad),
            whole=whole,
            choices=self._choices(filled),
        )

    def _packed(self, texts: list[Encoded]) -> Examples:
        """Return rows of several texts as the examples."""
        lengths = [len(tokens) for tokens, _ in texts]
        rows = pack(lengths, self.max_length)

        def collate(indices: list[int]) -> Batch:
            chosen = [[texts[text] for text in rows[index]] for index in indices]
            return packed_batch(chosen, self.pad)

        return Examples([sum(lengths[text] for text in row) for row in rows], collate)

    def _places(self, inputs: dict[str, Tensor]) -> Tensor:
        return token_mask(inputs).bool()

    def _parts(self, batch: Batch) -> list[Parts]:
        return last_turn(batch)

    def _batch(self, parts: Sequence[Parts]) -> Batch:
        return continued(parts, self.pad, self.positions)

    def _prompts(self, rows: Sequence[TemplateRow]) -> list[list[int]]:
        encoded = self.text.encode([self._pieces(row.place, row) for row in rows])
        return [tokens[: learned.index(True)] for tokens, learned in encoded]

    def _given(self, batch: Batch) -> dict[str, Tensor]:
        return prompts(last_turn(batch), self.pad, max(1, self.positions - self.new_tokens))

    def _tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return completions in tokens, each with its end."""
        before = {"prompt": self.task.prompt or "?"}
        rows = [TemplateRow("words", {**before, "completion": text}) for text in answers]
        return self.text.endings([self._pieces(row.place, row) for row in rows])

    def _pieces(self, place: str, row: TemplateRow | list[Any]) -> list[Segment]:
        """Return a row's text in pieces: learned, or only given."""
        if not isinstance(row, TemplateRow):
            return segments(self.tokenizer, row, f"{self.where}.messages: {place}")
        content = row.texts
        if self.task.text is not None:
            return [(content["text"], True)]
        if self.task.chat:
            roles = (("user", "prompt"), ("assistant", "completion"))
            messages = [{"role": role, "content": content[key]} for role, key in roles]
            return segments(self.tokenizer, messages, f"{self.where}.chat: {place}")
        return [(content["prompt"], False), (content["completion"], True)]

    def _encoded(self, rows: Sequence[Row]) -> tuple[list[Row], list[Encoded], dict[int, list[int]]]:
        """Return the rows that are kept, their texts, cut with a note, and whole answers that are cut."""
        kept, encoded, whole, cut = list[Row](), list[Encoded](), dict[int, list[int]](), list[str]()
        pieces = [self._pieces(place, content) for place, content in rows]
        for (place, content), (tokens, learned) in zip(rows, self.text.encode(pieces), strict=True):
            if any(learned[1 : self.max_length]):
                if len(tokens) > self.max_length:
                    cut.append(place)
                    whole[len(encoded)] = whole_turn(tokens, learned, self.max_length)
                kept.append((place, content))
                self._check_known(place, {token for token, own in zip(tokens, learned, strict=True) if own})
                encoded.append(with_labels(tokens[: self.max_length], learned[: self.max_length]))
            elif not self.task.drop_long:
                raise UserError(
                    f"{self.where}.max_length: {place} has {len(tokens)} tokens, and nothing to learn in the "
                    f"first {self.max_length}; raise max_length, or leave such rows out by drop_long: true"
                )
        note_cut(f"{self.where}.max_length", self.max_length, cut, len(rows))
        return kept, encoded, whole
