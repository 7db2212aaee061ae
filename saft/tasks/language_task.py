"""What kinds of tasks declare whose model writes text: templates, and answers to choose among."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Literal

from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import language_kind, sees_only
from saft.tasks.option_fields import AFTER, LETTER, OPTION
from saft.tasks.row_options import OptionColumns
from saft.tasks.table_source import TableSource
from saft.tasks.task import Task
from saft.tasks.template import TemplateRow, Words, fields, read_templates, wordings

__all__ = ["LanguageTask", "language_folder"]

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
    def classifies(self) -> bool:
        """It gives those of tokens."""
        return False

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
