"""Text to text: an encoder-decoder answers a text by another; its language head is trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from torch import Tensor, nn

from saft import config
from saft.config import Count
from saft.config.ranges import MOST, Range
from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import language_kind
from saft.tasks import TASKS, language_model
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.examples import IGNORED, Batch, Examples
from saft.tasks.language_model import LanguageModel, Parts, padded
from saft.tasks.metric import Metric, Score
from saft.tasks.table_source import TableSource, data_files, distrusted
from saft.tasks.task import Task, TaskModel
from saft.tasks.template import TemplateRow, fields, read_templates, wordings
from saft.tasks.text_examples import cut_length
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["BoundTextToText", "TextToText"]


@TASKS.register("text_to_text")
@config.checked
@dataclass(frozen=True)
class TextToText(Task):
    """Answer a text by another, by an encoder-decoder such as T5."""

    data: TableSource
    """The table."""
    input: str
    """A template of what is given, for example "mnli premise: {premise} hypothesis: {hypothesis}"."""
    target: str
    """A template of the answer, for example "{label}"."""
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    """Column -> value in the data -> what stands for it in the templates."""
    metric_name: Literal["exact_match", "choice", "spearman", "token_accuracy", "loss"] = "exact_match"
    """What is measured; exact_match: of the answer, generated greedily; choice: whether the right one of the
    answers that `words` allow is the likeliest; spearman: rank correlation of the number generated."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 512
    """Inputs are cut to this many tokens, or to as many as the model has positions."""
    max_target_length: Count = 32
    """Answers are cut to this many tokens, and no more are generated."""

    def __post_init__(self) -> None:
        for key, template in self.templates.items():
            try:
                fields(template)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        if self.metric_name == "choice":
            self.options()

    @property
    def templates(self) -> dict[str, str]:
        """The templates, by their keys."""
        return {"input": self.input, "target": self.target}

    def options(self) -> list[str]:
        """Return the answers to choose among."""
        try:
            return wordings(self.target, self.words)
        except ValueError as error:
            raise ValueError(f"target: {error}") from None

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextToText:
        """Bind the task to an encoder-decoder: load its tokenizer; no input is longer than its positions."""
        folder = local_folder(model.path, "model.path")
        if (kind := language_kind(folder)) != "encoder-decoder":
            other = "language_modeling" if kind else "text_classification"
            raise UserError(
                f"{where}.kind: text_to_text needs an encoder-decoder, which {model.path} is not; "
                f"kind: {other} takes it"
            )
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if (start := settings.decoder_start_token_id) is None:
            raise UserError(
                f"model {model.path}: its config.json does not say by which token an answer begins "
                "(decoder_start_token_id)"
            )
        longest = cut_length(model, self.max_length, where)
        tokenizer = load_tokenizer(model.path)
        return BoundTextToText(self, name, model, where, torch.device(device), tokenizer, longest, start)

    def check(self, where: str) -> None:
        """Read the table as far as its columns and words."""
        self.rows(where)

    def distrusted(self) -> str | None:
        """Return what of the table a checkpoint folder must not ask for."""
        problem = distrusted(self.data)
        return f"data.{problem}" if problem else None

    def files(self, where: str) -> Mapping[str, Path]:
        """Return the table's local files, by their location as it was written."""
        return data_files(self.data, where)

    def rows(self, where: str) -> dict[str, list[TemplateRow]]:
        """Return the rows of each split; see `saft.tasks.template.read_templates`."""
        return read_templates(self.data, self.templates, self.words, where)


@dataclass(frozen=True)
class BoundTextToText(BoundToModel[TextToText]):
    """Text to text with one model; see `saft.tasks.task.BoundTask`.

    Args:
        tokenizer: the model's.
        max_length: inputs are cut to this many tokens.
        start: the token by which the decoder begins.
    """

    trunk_kind = "an encoder-decoder that answers"
    trunk_class = "AutoModelForSeq2SeqLM"
    tokenizer: Any
    max_length: int
    start: int

    @property
    def metric(self) -> Metric:
        """Exact match, accuracy, token accuracy or Spearman, in percent; or loss, of which less is better."""
        return language_model.METRICS[self.task.metric_name]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The length that the model decided."""
        return {"max_length": self.max_length}

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> LanguageModel:
        """Return the trunk as it is: it has its language head."""
        return LanguageModel(trunk)

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean over the tokens of the encoder's last layer, [batch, width]."""
        return LanguageModel(trunk).features(inputs)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the answers, over the batch's tokens, in nats."""
        return language_model.target_loss(model, batch)

    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return the metric, with its standard error from the number of examples."""
        assert isinstance(model, LanguageModel)
        with language_model.evaluating(model):
            match self.task.metric_name:
                case "exact_match":
                    return language_model.exact_match(self._generated(model, examples, batch_size))
                case "spearman":
                    return language_model.generated_numbers(self._generated(model, examples, batch_size))
                case "choice":
                    options = self._answers(self.task.options())
                    return language_model.choice(
                        model, examples, batch_size, self._parts, self._batch, options
                    )
                case name:
                    return language_model.over_tokens(model, examples, batch_size, name)

    def facts(self) -> dict[str, Any]:
        """Return where inputs and answers are cut."""
        return {
            "kind": "text_to_text",
            "max_length": self.max_length,
            "max_target_length": self.task.max_target_length,
        }

    def _examples(self, rows: list[TemplateRow], training: bool) -> Examples:
        options = {"truncation": True, "max_length": self.max_length}
        texts = [row.texts["input"] for row in rows]
        given: list[list[int]] = self.tokenizer(texts, **options)["input_ids"] if texts else []
        pairs = list(zip(given, self._answers([row.texts["target"] for row in rows]), strict=True))
        return Examples(list(map(len, given)), lambda indices: self._batch([pairs[at] for at in indices]))

    def _answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of answers, each with its end, unless it is cut before."""
        if not texts:
            return []
        encoded = self.tokenizer(text_target=list(texts), verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        whole = [ids if ids[-1:] == [end] or end is None else [*ids, end] for ids in encoded]
        return [ids[: self.task.max_target_length] for ids in whole]

    def _batch(self, pairs: Sequence[Parts]) -> Batch:
        """Return a batch of inputs and answers; the decoder reads each answer one token late."""
        pad = self.tokenizer.pad_token_id
        given, answers = [ids for ids, _ in pairs], [ids for _, ids in pairs]
        late = [[self.start, *ids[:-1]] for ids in answers]
        inputs = {
            "input_ids": padded(given, pad),
            "attention_mask": padded([[1] * len(ids) for ids in given], 0),
            "decoder_input_ids": padded(late, pad),
        }
        return Batch(inputs, padded(answers, IGNORED))

    def _parts(self, batch: Batch) -> list[Parts]:
        given = [
            ids[: sum(mask)]
            for ids, mask in zip(
                batch.inputs["input_ids"].tolist(), batch.inputs["attention_mask"].tolist(), strict=True
            )
        ]
        answers = [[token for token in row if token != IGNORED] for row in batch.labels.tolist()]
        return list(zip(given, answers, strict=True))

    def _generated(self, model: LanguageModel, examples: Examples, batch_size: int) -> list[tuple[str, str]]:
        """Return the answer to each example, as generated and as it is in the data."""
        pairs = []
        for batch in examples.batches(batch_size):
            inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
            rows = language_model.generate(model, inputs, self.task.max_target_length, self.tokenizer)
            for row, (_, answer) in zip(rows, self._parts(batch), strict=True):
                pairs.append((self._decoded(row), self._decoded(answer)))
        return pairs

    def _decoded(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text
