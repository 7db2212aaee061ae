"""What every form of a merge's result has in common: its problems, its size, and its writing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from saft.registry import Registry

if TYPE_CHECKING:
    from saft.merging.merge_config import MergeConfig
    from saft.merging.method import Method
    from saft.merging.plan import Plan, Progress

__all__ = ["OUTPUTS", "Output", "Written"]


@dataclass(frozen=True)
class Written:
    """What an output says of what it has written.

    Args:
        manifest: further keys of saft.json, which take the place of those that every merge has.
        card: Markdown that is added to the model card.
        summary: a line for the terminal.
        library: that reads the folder, for the hub.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    summary: str = ""
    library: str = "transformers"


class Output(ABC):
    """A form that the result of a merge can have: a frozen dataclass in `OUTPUTS`, whose fields are options.

    A merge file asks for it by `output: {name: NAME, ...}`, or in words of its own, which `asked_for` knows.
    """

    by_name: ClassVar[bool] = True
    """Whether `output: {name: NAME}` asks for it, with its fields as options."""
    precedence: ClassVar[int] = 0
    """Where several are asked for, the highest is taken; its `conflicts` tells what does not go with it."""
    is_model: ClassVar[bool] = True
    """Whether the folder is to be loaded as a model, and so needs the base's config and tokenizer."""
    reads_examples: ClassVar[bool] = False
    """Whether it reads examples of each task, whatever the method does."""

    @classmethod
    def asked_for(cls, config: MergeConfig, method: Method) -> Output | None:
        """Return the output if a merge file asks for it other than by `output:`; else None."""
        return None

    def conflicts(self, config: MergeConfig) -> Iterator[str]:
        """Yield what in a merge file does not go with this output, one message each."""
        return iter(())

    def problems(self, plan: Plan) -> Iterator[str]:
        """Yield what keeps the result of a plan from being written so, one message each."""
        return iter(())

    @abstractmethod
    def bytes(self, plan: Plan) -> int:
        """Return the bytes of tensors that are written, at most."""

    def memory(self, plan: Plan) -> int:
        """Return the bytes of memory that writing takes at most, beside those of the stream."""
        return 0

    def seconds(self, plan: Plan) -> float:
        """Return about how long writing takes on an idle machine, beside the stream."""
        return 0.0

    @abstractmethod
    def write(self, plan: Plan, folder: Path, progress: Progress | None = None) -> Written:
        """Merge, and write the tensors of the result; what stands beside them, `write_merge` writes.

        Args:
            plan: from `check`, with what its method has collected from examples.
            folder: to write to; it exists and is empty.
            progress: called with the bytes read.

        Raises:
            UserError: an input is not finite, or the result does not fit its dtype.
        """


OUTPUTS: Registry[type[Output]] = Registry(Output, "output", "saft.merging.outputs")
