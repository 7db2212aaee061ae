"""What kinds of tasks do alike whose model writes text, once they are bound to it: choices, and metrics."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from saft.errors import UserError
from saft.tasks import language_model
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.examples import Batch, Candidates, Examples
from saft.tasks.generation import generate
from saft.tasks.language_model import LanguageModel, Parts
from saft.tasks.language_task import LanguageTask
from saft.tasks.metric import Metric
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import TaskModel, features_of_a_token
from saft.tasks.template import TemplateRow

__all__ = ["BoundLanguageTask"]

Declared = TypeVar("Declared", bound=LanguageTask)


@dataclass(frozen=True)
class BoundLanguageTask(BoundToModel[Declared]):
    """A task on one model that writes text; see `saft.tasks.task.BoundTask`.

    Args:
        tokenizer: the model's.
        max_length: texts are cut to this many tokens.
        positions: that the model has.
    """

    _cuts_given: ClassVar[bool] = False
    """Whether `max_length` cuts what is given before an answer that may be chosen."""

    tokenizer: Any
    max_length: int
    positions: int

    @property
    @abstractmethod
    def new_tokens(self) -> int:
        """At most this many are generated."""

    @property
    @abstractmethod
    def longest_answer(self) -> int:
        """How many tokens the model has positions for behind what is given."""

    @property
    def metric(self) -> Metric:
        """Loss or perplexity, of which less is better; or a share or a rank correlation, in percent."""
        return language_model.METRICS[self.task.metric_name]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The length that the model decided."""
        return {"max_length": self.max_length}

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> LanguageModel:
        """Return the trunk as it is: it has its language head; whether it computes is tried at the start."""
        model = LanguageModel(trunk)
        if head_from is None:
            features_of_a_token(model, self.where)
        return model

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
            if (longest := max(len(tokens[text]) for text in answers)) > self.longest_answer:
                raise UserError(
                    f"{self.where}.{follows}: {row.place} may have an answer of {longest} tokens, but the "
                    f"model has positions for {self.longest_answer} beside what is given; shorten it"
                )
            own_given = list(itertools.islice(given, len(answers)))
            choices.append(Candidates([tokens[text] for text in answers], characters, right, own_given))
            self._check_apart(row.options, choices[-1], f"the options of {row.place}")
        return choices

    def check_new_tokens(self, key: str) -> None:
        """Check that the model has as many positions as tokens are to be generated.

        Args:
            key: of the config, that says how many.

        Raises:
            UserError: it has fewer.
        """
        if self.new_tokens > self.positions:
            raise UserError(
                f"{self.where}.{key}: {self.new_tokens} is more than the {self.positions} positions of "
                f"{self.base.path}; lower it"
            )

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
        if self._cuts_given and any(len(tokens) == self.max_length for tokens in own.given):
            raise UserError(
                f"{self.where}.max_length: {self.max_length} token(s) do not tell {told} apart; raise it"
            )
        raise UserError(
            f"{self.where}.{self.task.follows}: the tokenizer of {self.base.path} writes two of {told} "
            "in the same tokens; word them in another way"
        )

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
            # A part of an answer that is cut would be right.
            answers = [
                examples.whole.get(index, answer)
                for index, (_, answer) in zip(indices, self._parts(batch), strict=True)
            ]
            given, ends = self._given(batch), self._ends(answers)
            rows = generate(model, given, self.new_tokens, self.tokenizer, ends)
            pairs += [
                (self._decoded(row), self._decoded(own)) for row, own in zip(rows, answers, strict=True)
            ]
        return pairs

    def _ends(self, answers: Sequence[list[int]]) -> set[int]:
        """Return the special tokens that end answers: a chat template may use another than texts have."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token for token, own in added if own.special} - {self.tokenizer.unk_token_id}
        ends = set[int]()
        for answer in answers:
            last = max((at for at, token in enumerate(answer) if token in special), default=None)
            if last is not None and not self.tokenizer.decode(answer[last + 1 :]).strip():
                ends.add(answer[last])
        return ends
