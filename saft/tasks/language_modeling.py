"""Language modeling: a causal model continues texts, prompts or conversations; its language head is trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from saft import config
from saft.config import Count
from saft.config.ranges import MOST, Range
from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import language_kind, max_tokens
from saft.tasks import TASKS, language_model
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.causal_batch import Encoded, causal_batch, continued, last_turn, prompts, with_labels
from saft.tasks.causal_tokenizer import CausalTokenizer
from saft.tasks.conversation import Segment, segments
from saft.tasks.examples import Batch, Examples
from saft.tasks.language_model import LanguageModel
from saft.tasks.metric import Metric, Score
from saft.tasks.packing import check_separation, pack, packed_batch
from saft.tasks.table_source import TableSource, check_columns, data_files, distrusted, divide, load, present
from saft.tasks.task import Task, TaskModel
from saft.tasks.template import fields, read_templates, wordings
from saft.tasks.text_examples import cut_length
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["BoundLanguageModeling", "LanguageModeling"]

Row = tuple[str, Any]
"""A row's place, for messages, and its texts or its conversation."""


@TASKS.register("language_modeling")
@config.checked
@dataclass(frozen=True)
class LanguageModeling(Task):
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
    metric_name: Literal["loss", "perplexity", "token_accuracy", "exact_match", "choice"] = "loss"
    """What is measured; exact_match: of the completion, generated greedily; choice: whether the right one of
    the completions that `words` allow is the likeliest."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 512
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    max_new_tokens: Count = 32
    """exact_match generates at most this many tokens."""
    drop_long: bool = False
    """Leave out rows of which `max_length` leaves nothing to learn, instead of refusing them."""
    packing: bool = False
    """Put several training texts into one row of at most `max_length` tokens; none sees another."""

    def __post_init__(self) -> None:
        given = [key for key in ("text", "prompt", "messages") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "one of text, prompt (with completion) and messages says what is learned, but "
                + (f"{' and '.join(given)} are given" if given else "none is given")
            )
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion belong together, but only one is given")
        for key, template in self.templates.items():
            try:
                fields(template)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        if self.chat and self.prompt is None:
            raise ValueError("chat: is for a prompt and a completion")
        if self.metric_name in ("exact_match", "choice") and self.text is not None:
            raise ValueError(f"metric_name: {self.metric_name} needs a prompt; of texts measure the loss")
        if self.metric_name == "choice":
            self.options()

    @property
    def templates(self) -> dict[str, str]:
        """The templates that are given, by their keys."""
        all_of_them = {"text": self.text, "prompt": self.prompt, "completion": self.completion}
        return {key: template for key, template in all_of_them.items() if template is not None}

    def options(self) -> list[str]:
        """Return the completions to choose among."""
        if self.completion is None:
            raise ValueError("metric_name: choice needs a completion to choose")
        try:
            return wordings(self.completion, self.words)
        except ValueError as error:
            raise ValueError(f"completion: {error}") from None

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundLanguageModeling:
        """Bind the task to a causal model: load its tokenizer; no text is longer than its positions."""
        folder = local_folder(model.path, "model.path")
        if (kind := language_kind(folder)) != "causal":
            other = "text_to_text" if kind else "text_classification"
            raise UserError(
                f"{where}.kind: language_modeling needs a causal language model, which {model.path} is not; "
                f"kind: {other} takes it"
            )
        tokenizer = load_tokenizer(model.path)
        if (self.chat or self.messages) and not tokenizer.chat_template:
            raise UserError(
                f"{where}.{'chat' if self.chat else 'messages'}: the tokenizer of {model.path} has no chat "
                "template; take an instruction-tuned model, or write prompt and completion without `chat`"
            )
        positions = max_tokens(folder, MOST)
        longest = cut_length(model, self.max_length, where)
        text = CausalTokenizer(tokenizer, templated=self.chat or self.messages is not None)
        return BoundLanguageModeling(self, name, model, where, torch.device(device), text, longest, positions)

    def check(self, where: str) -> None:
        """Read the table as far as its columns."""
        self.rows(where)

    def distrusted(self) -> str | None:
        """Return what of the table a checkpoint folder must not ask for."""
        problem = distrusted(self.data)
        return f"data.{problem}" if problem else None

    def files(self, where: str) -> Mapping[str, Path]:
        """Return the table's local files, by their location as it was written."""
        return data_files(self.data, where)

    def rows(self, where: str) -> dict[str, list[Row]]:
        """Return the rows of each split."""
        if self.messages is None:
            filled = read_templates(self.data, self.templates, self.words, where)
            return {split: [(row.place, row.texts) for row in rows] for split, rows in filled.items()}
        read: dict[str, list[Row]] = {}
        for split, content in load(self.data, where).items():
            check_columns(content, [("messages", self.messages)], where)
            values = list(content[self.messages])
            used = present({f"messages.{self.messages}": values}, self.data, split, where)
            read[split] = [(f"row {row + 1} of the {split} split", values[row]) for row in used]
        return divide(read, self.data)


@dataclass(frozen=True)
class BoundLanguageModeling(BoundToModel[LanguageModeling]):
    """Language modeling with one model; see `saft.tasks.task.BoundTask`.

    Args:
        text: writes texts as tokens.
        max_length: texts are cut to this many tokens.
        positions: that the model has.
    """

    trunk_kind = "a causal language model"
    trunk_class = "AutoModelForCausalLM"
    text: CausalTokenizer
    max_length: int
    positions: int

    @property
    def metric(self) -> Metric:
        """Loss or perplexity, less is better; token accuracy, exact match or accuracy, in percent."""
        return language_model.METRICS[self.task.metric_name]

    @property
    def pad(self) -> int:
        """The padding token."""
        token: int = self.text.tokenizer.pad_token_id
        return token

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The length that the model decided."""
        return {"max_length": self.max_length}

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> LanguageModel:
        """Return the trunk as it is: it has its language head."""
        model = LanguageModel(trunk)
        if self.task.packing and head_from is None:
            check_separation(model, self.where)
        return model

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean over the tokens of a trunk's last layer, [batch, width]."""
        return LanguageModel(trunk).features(inputs)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of what is learned, over the batch's tokens, in nats."""
        return language_model.target_loss(model, batch)

    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return the metric, with its standard error from the number of examples."""
        assert isinstance(model, LanguageModel)
        with language_model.evaluating(model):
            match self.task.metric_name:
                case "exact_match":
                    return language_model.exact_match(self._generated(model, examples, batch_size))
                case "choice":
                    make = partial(continued, pad=self.pad, longest=self.positions)
                    return language_model.choice(
                        model, examples, batch_size, last_turn, make, self._options()
                    )
                case name:
                    return language_model.over_tokens(model, examples, batch_size, name)

    def facts(self) -> dict[str, Any]:
        """Return what is learned, where texts are cut, and whether they are packed."""
        learned = "whole texts" if self.task.text else "completions"
        return {
            "kind": "language_modeling",
            "learned": learned,
            "max_length": self.max_length,
            "packing": self.task.packing,
        }

    def _examples(self, rows: list[Row], training: bool) -> Examples:
        texts = self._encoded(rows)
        if training and self.task.packing:
            return self._packed(texts)
        return Examples(
            [len(tokens) for tokens, _ in texts],
            lambda indices: causal_batch([texts[index] for index in indices], self.pad),
        )

    def _packed(self, texts: list[Encoded]) -> Examples:
        """Return rows of several texts as the examples."""
        lengths = [len(tokens) for tokens, _ in texts]
        rows = pack(lengths, self.max_length)

        def collate(indices: list[int]) -> Batch:
            chosen = [[texts[text] for text in rows[index]] for index in indices]
            return packed_batch(chosen, self.pad)

        return Examples([sum(lengths[text] for text in row) for row in rows], collate)

    def _generated(self, model: LanguageModel, examples: Examples, batch_size: int) -> list[tuple[str, str]]:
        """Return the completion of each example, as generated and as it is in the data."""
        pairs, room = [], max(1, self.positions - self.task.max_new_tokens)
        for batch in examples.batches(batch_size):
            turns = last_turn(batch)
            inputs = prompts(turns, self.pad, room)
            rows = language_model.generate(model, inputs, self.task.max_new_tokens, self.text.tokenizer)
            for row, (_, target) in zip(rows, turns, strict=True):
                pairs.append((self.text.decode(row), self.text.decode(target)))
        return pairs

    def _options(self) -> list[list[int]]:
        """Return the completions to choose among, as they are learned."""
        rows = [{"prompt": "?", "completion": text} for text in self.task.options()]
        return [self.text.ending(self._pieces("words", row)[-1][0]) for row in rows]

    def _pieces(self, place: str, content: Any) -> list[Segment]:
        """Return a row's text in pieces: learned, or only given."""
        if self.task.text is not None:
            return [(content["text"], True)]
        if self.task.messages is not None:
            return segments(self.text.tokenizer, content, f"{self.where}.messages: {place}")
        if self.task.chat:
            roles = (("user", "prompt"), ("assistant", "completion"))
            messages = [{"role": role, "content": content[key]} for role, key in roles]
            return segments(self.text.tokenizer, messages, f"{self.where}.chat: {place}")
        return [(content["prompt"], False), (content["completion"], True)]

    def _encoded(self, rows: Sequence[Row]) -> list[Encoded]:
        encoded = []
        for place, content in rows:
            tokens, learned = self.text.encode(self._pieces(place, content))
            if any(learned[1 : self.max_length]):
                encoded.append(with_labels(tokens[: self.max_length], learned[: self.max_length]))
            elif not self.task.drop_long:
                raise UserError(
                    f"{self.where}.max_length: {place} has {len(tokens)} tokens, and nothing to learn in the "
                    f"first {self.max_length}; raise max_length, or leave such rows out by drop_long: true"
                )
        return encoded
