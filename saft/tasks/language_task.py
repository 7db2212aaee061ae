"""What kinds of tasks share whose model writes text: templates, answers to choose among, metrics."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import language_kind, sees_only
from saft.tasks import language_model
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.examples import Batch, Candidates, Examples
from saft.tasks.language_model import LanguageModel, Parts
from saft.tasks.metric import Metric
from saft.tasks.option_fields import AFTER, LETTER, OPTION
from saft.tasks.outcomes import Outcomes
from saft.tasks.row_options import OptionColumns
from saft.tasks.table_source import TableSource
from saft.tasks.task import Task, TaskModel
from saft.tasks.template import TemplateRow, Words, fields, read_templates, wordings

__all__ = ["BoundLanguageTask", "LanguageTask", "language_folder"]

_KIND: dict[str | None, str] = {
    "causal": "language_modeling",
    "encoder-decoder": "text_to_text",
    None: "text_classification",
}
_MODEL = {"causal": "a causal language model", "encoder-decoder": "an encoder-decoder"}


class LanguageTask(Task):
    """A task that gives a model text, and measures the text that follows."""

    data: TableSource
    words: Words
    metric_name: str
    options: str | list[str] | None
    answer: str | None
    option_labels: str | list[str] | None
    blank: str | None

    @property
    @abstractmethod
    def templates(self) -> dict[str, str]:
        """The templates that are given, by their keys."""

    @property
    @abstractmethod
    def follows(self) -> str:
        """The key of the template of what is to follow."""

    @property
    def chooses(self) -> bool:
        """Whether an answer is chosen among some."""
        return self.metric_name in ("choice", "choice_per_character")

    def wordings(self) -> list[str]:
        """Return the answers to choose among, the same for all rows.

        Raises:
            ValueError: the template of the answer does not give some.
        """
        if self.follows not in self.templates:
            raise ValueError(f"metric_name: {self.metric_name} needs a {self.follows} to choose")
        try:
            return wordings(self.templates[self.follows], self.words)
        except ValueError as error:
            raise ValueError(f"{self.follows}: {error}") from None

    def check_templates(self) -> None:
        """Check the templates, and that there are answers to choose among where the metric does so.

        Raises:
            ValueError: a template is wrong, or does not give them.
        """
        for key, template in self.templates.items():
            try:
                fields(template)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        if self.options is not None:
            self._check_row_options()
        elif given := [key for key in ("answer", "option_labels", "blank") if getattr(self, key) is not None]:
            raise ValueError(f"{given[0]}: is read only with `options`, what each row has to choose among")
        elif self.chooses:
            self.wordings()

    def filled(self, where: str) -> dict[str, list[TemplateRow]]:
        """Return the rows of each split, as templates; see `saft.tasks.template.read_templates`."""
        columns = None
        if self.options is not None and self.answer is not None:
            columns = OptionColumns(self.options, self.answer, self.option_labels, self.blank)
        return read_templates(self.data, self.templates, self.words, where, columns)

    def _check_row_options(self) -> None:
        if self.answer is None:
            raise ValueError("answer: is missing: name the column that says which of `options` is right")
        if self.follows not in self.templates:
            raise ValueError(f'options: need a {self.follows} that they fill, such as " {{{OPTION}}}"')
        if self.blank is None:
            self._check_option_follows()
        elif AFTER not in fields(follows := self.templates[self.follows]):
            raise ValueError(
                f"{self.follows}: {follows!r}: has no {{{AFTER}}}, what is after the blank: with `blank`, "
                f'the likelihood of that is compared, such as "{{{AFTER}}}" of "{{before}}{{{OPTION}}}"'
            )
        elif not any(self._holds_option(key) for key in self.templates):
            raise ValueError(
                f"options: no template holds {{{OPTION}}}; with `blank`, write one as "
                f'"{{before}}{{{OPTION}}}"'
            )
        if isinstance(self.options, list):
            if len(set(self.options)) < max(2, len(self.options)):
                raise ValueError("options: needs two different columns or more, or one column of lists")
            if isinstance(self.option_labels, list) and len(self.option_labels) != len(self.options):
                raise ValueError(
                    f"option_labels: are {len(self.option_labels)}, but there are {len(self.options)} options"
                )

    def _check_option_follows(self) -> None:
        for key, template in self.templates.items():
            has, may = self._holds_option(key), key == self.follows
            if has and not may:
                raise ValueError(
                    f"{key}: {template!r}: is given before the {self.follows}, which alone may hold "
                    f"{{{OPTION}}} or its {{{LETTER}}}; if it fills a blank, name that column under `blank`"
                )
            if may and not has:
                raise ValueError(
                    f"{key}: {template!r}: has no {{{OPTION}}} and no {{{LETTER}}}, for which `options` are "
                    "filled in"
                )

    def _holds_option(self, key: str) -> bool:
        """Return whether a template is another one with each option."""
        return not {OPTION, LETTER}.isdisjoint(fields(self.templates[key]))

    @property
    def option_is_given(self) -> bool:
        """Whether what is given before the answer is another text with each option."""
        return self.options is not None and any(
            self._holds_option(key) for key in self.templates if key != self.follows
        )


def language_folder(model: ModelConfig, kind: Literal["causal", "encoder-decoder"], where: str) -> Path:
    """Return the folder of a model that writes text in a task's way.

    Args:
        model: its path.
        kind: how it writes.
        where: the place in front of every message.

    Raises:
        UserError: it is not there, or of another kind; with the kind of task that takes it.
    """
    folder = local_folder(model.path, "model.path")
    if (own := language_kind(folder)) != kind:
        takes = "image_classification" if sees_only(folder) else _KIND[own]
        raise UserError(
            f"{where}.kind: {_KIND[kind]} needs {_MODEL[kind]}, which {model.path} is not; "
            f"kind: {takes} takes it"
        )
    return folder


Declared = TypeVar("Declared", bound=LanguageTask)


@dataclass(frozen=True)
class BoundLanguageTask(BoundToModel[Declared]):
    """A task on one model that writes text; see `saft.tasks.task.BoundTask`.

    Args:
        tokenizer: the model's.
        max_length: texts are cut to this many tokens.
    """

    tokenizer: Any
    max_length: int

    @property
    @abstractmethod
    def new_tokens(self) -> int:
        """At most this many are generated."""

    @property
    def metric(self) -> Metric:
        """Loss or perplexity, of which less is better; or a share or a rank correlation, in percent."""
        return language_model.METRICS[self.task.metric_name]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The length that the model decided."""
        return {"max_length": self.max_length}

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> LanguageModel:
        """Return the trunk as it is: it has its language head."""
        return LanguageModel(trunk)

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean over the tokens of the last layer, of an encoder-decoder the encoder's."""
        return LanguageModel(trunk).features(inputs)

    def predictions(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits of what follows each token, padding left out, [tokens, vocabulary].

        Args:
            trunk: as it is now, in the mode that it is in.
            inputs: of a batch, without labels.
        """
        logits: Tensor = LanguageModel(trunk)(inputs)[self._places(inputs)]
        return logits

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of what is learned, over the batch's tokens, in nats."""
        return language_model.target_loss(model, batch)

    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return what is right of each example, its tokens' log p, or the numbers that were generated."""
        assert isinstance(model, LanguageModel)
        with language_model.evaluating(model):
            match self.task.metric_name:
                case "exact_match":
                    return language_model.exact_match(self._generated(model, examples, batch_size))
                case "spearman":
                    return language_model.generated_numbers(self._generated(model, examples, batch_size))
                case "choice" | "choice_per_character" as name:
                    per_character = name == "choice_per_character"
                    return language_model.choice(
                        model, examples, batch_size, self._parts, self._batch, per_character
                    )
                case name:
                    return language_model.over_tokens(model, examples, batch_size, name)

    @abstractmethod
    def _places(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return where there are tokens that another follows, and not padding, [batch, tokens]."""

    @abstractmethod
    def _parts(self, batch: Batch) -> list[Parts]:
        """Return what each example of a batch was made of: what is given, and what is to follow."""

    @abstractmethod
    def _batch(self, parts: Sequence[Parts]) -> Batch:
        """Return a batch made of such parts."""

    @abstractmethod
    def _given(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the model generates from: input_ids and attention_mask, [batch, tokens]."""

    @abstractmethod
    def _tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return answers in tokens, as they are learned."""

    @abstractmethod
    def _prompts(self, rows: Sequence[TemplateRow]) -> list[list[int]]:
        """Return what is given in each row, in tokens."""

    def _choices(self, rows: Sequence[TemplateRow]) -> list[Candidates]:
        """Return the answers that each row may have, where one of them is to be chosen."""
        if not self.task.chooses:
            return []
        follows = self.task.follows
        fixed = [{follows: text} for text in self.task.wordings()] if self.task.options is None else []
        texts = list(dict.fromkeys(own[follows] for row in rows for own in row.options or fixed))
        tokens = dict(zip(texts, self._tokens(texts), strict=True))
        with_options = [TemplateRow(row.place, own) for row in rows for own in row.options]
        given = iter(self._prompts(with_options) if self.task.option_is_given else [])
        choices = list[Candidates]()
        for row in rows:
            answers = [own[follows] for own in row.options or fixed]
            right = row.options.index(row.texts) if row.options else answers.index(row.texts[follows])
            characters = [max(1, len(text.strip())) for text in answers]
            own_given = list(itertools.islice(given, len(answers)))
            choices.append(Candidates([tokens[text] for text in answers], characters, right, own_given))
            self._check_apart(row.options, choices[-1], f"the options of {row.place}")
        return choices

    def check_answers(self) -> None:
        """Check that the answers to choose among, if all rows have the same, are told apart as tokens.

        Raises:
            UserError: two are not.
        """
        if self.task.chooses and self.task.options is None:
            texts = self.task.wordings()
            own = Candidates(self._tokens(texts), [1] * len(texts), right=0)
            self._check_apart(
                [{self.task.follows: text} for text in texts], own, "the answers to choose among"
            )

    def _check_apart(self, options: Sequence[Mapping[str, str]], own: Candidates, told: str) -> None:
        texts = {tuple(" ".join(text.split()) for text in option.values()) for option in options}
        if len({(tuple(given), tuple(tokens)) for given, tokens in own.after([])}) >= len(texts):
            return
        if (cut := self._cut_by(own)) is not None:
            key, length = cut
            raise UserError(f"{self.where}.{key}: {length} token(s) do not tell {told} apart; raise it")
        raise UserError(
            f"{self.where}.{self.task.follows}: the tokenizer of {self.base.path} writes two of {told} "
            "in the same tokens; word them in another way"
        )

    def _cut_by(self, own: Candidates) -> tuple[str, int] | None:
        """Return by which key some of the answers, or what is given before them, may be cut, and to what."""
        return None

    def _check_known(self, place: str, tokens: Collection[int]) -> None:
        """Refuse what is learned of a row if the tokenizer knows no word of it: it would equal anything."""
        unknown, end = self.tokenizer.unk_token_id, self.tokenizer.eos_token_id
        if unknown != end and unknown in tokens and set(tokens) <= {unknown, end}:
            raise UserError(
                f"{self.where}.{self.task.follows}: {place} has nothing to learn that the tokenizer of "
                f"{self.base.path} knows; take another model, or leave the row out of the file"
            )

    def _decoded(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _generated(self, model: LanguageModel, examples: Examples, batch_size: int) -> list[tuple[str, str]]:
        """Return the answer to each example, as generated and as it is in the data."""
        pairs = []
        for indices in examples.order(batch_size):
            batch = examples.collate(indices)
            rows = language_model.generate(model, self._given(batch), self.new_tokens, self.tokenizer)
            for index, row, (_, answer) in zip(indices, rows, self._parts(batch), strict=True):
                whole = examples.whole.get(index, answer)  # else a part of the answer would be right
                pairs.append((self._decoded(row), self._decoded(whole)))
        return pairs
