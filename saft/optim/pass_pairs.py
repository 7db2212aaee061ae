"""The passes of one step: which micro-batches were seen, with which random numbers, and were all replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from saft.errors import UserError
from saft.optim.backward_count import BackwardCount
from saft.optim.random_streams import RandomStreams

__all__ = ["PassPairs"]


class PassPairs:
    """Pairs every replay pass with the first pass that it repeats.

    Example:
        >>> import torch
        >>> passes = PassPairs()
        >>> passes.record([]); first = torch.rand(1)
        >>> with passes.replaying([]), passes.replay():
        ...     second = torch.rand(1)
        >>> bool(first == second)
        True
    """

    def __init__(self) -> None:
        self.backwards = BackwardCount()
        self._streams: list[RandomStreams] = []
        self._replayed = 0

    def __len__(self) -> int:
        return len(self._streams)

    def record(self, parameters: Sequence[Tensor]) -> None:
        """Remember the random numbers of a first pass that begins now.

        Args:
            parameters: those that are trained, of any shape. If they have no gradients, the passes before are
                given up: they were left before their backward, or the model was asked to clear the gradients.
        """
        if parameters and all(parameter.grad is None for parameter in parameters):
            self.forget()
        self._streams.append(RandomStreams(p.device for p in parameters))

    def drop_last(self) -> None:
        """Forget the first pass that has just failed."""
        self._streams.pop()

    def require_step(self, advice: str) -> None:
        """Check that the last descent gradient was stepped along, or cleared, before another is made.

        Args:
            advice: how to accumulate.

        Raises:
            UserError: it would be lost.
        """
        if self.backwards.was_not_cleared():
            raise UserError(
                "the gradient of an earlier second pass is there, neither stepped along nor cleared, and"
                f" another would replace it: {advice}"
            )

    def require_single(self) -> None:
        """Check that exactly one first pass is there, as where the ascent is made for each micro-batch.

        Raises:
            UserError: there is none, or several.
        """
        if len(self) != 1:
            raise UserError(
                "per_micro_batch: each micro-batch needs its own `with first_pass():` before perturbed()"
            )

    def forget(self, keep_last: bool = False) -> None:
        """Forget the first passes: their gradients were cleared, or stepped with."""
        self._streams = self._streams[-1:] if keep_last else []
        self.backwards.restart()

    @contextmanager
    def replaying(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Run all replay passes inside; at its end the random numbers go on as if there had been none.

        Args:
            parameters: those that have a gradient from the first passes, of any shape.

        Raises:
            UserError: the micro-batches replayed are not those accumulated.
        """
        accumulated = self.backwards.passes
        self.backwards.watch(parameters)
        self.backwards.restart()
        self._replayed = 0
        resume = RandomStreams(p.device for p in parameters)
        try:
            if self._streams:
                self._streams[0].rewind()
            yield
            self._check(accumulated)
        finally:
            if self._streams:
                resume.rewind()
            self.forget()

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Replay the next micro-batch inside, with the random numbers of its first pass.

        Raises:
            UserError: every first pass has been replayed already.
        """
        if self._streams:
            if self._replayed == len(self._streams):
                raise UserError(f"replay_pass: there were only {len(self)} first passes to replay")
            self._streams[self._replayed].rewind()
        self._replayed += 1
        yield

    def _check(self, accumulated: int) -> None:
        recorded, replayed = len(self._streams), self._replayed
        if recorded > 1 and replayed != recorded:
            raise UserError(
                f"{recorded} micro-batches were accumulated but {replayed} replayed: run all of them again"
                " inside perturbed(), each in `with replay_pass():`; or ascend for each one with"
                " per_micro_batch=True"
            )
        if not recorded and accumulated and self.backwards.passes and accumulated != self.backwards.passes:
            raise UserError(
                f"{accumulated} backward passes were accumulated but {self.backwards.passes} replayed:"
                " replay every micro-batch inside perturbed(); if they were several losses of one batch,"
                " say so with `with first_pass():` around them"
            )
