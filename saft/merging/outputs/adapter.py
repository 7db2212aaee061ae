"""A merge written as a LoRA adapter of the base: the merged change, factored by singular values."""

from __future__ import annotations

import functools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from saft.config import Count
from saft.errors import UserError, abbreviated
from saft.files.checkpoint import write_tensors
from saft.files.locations import is_hub_id
from saft.merging.algebra import svd
from saft.merging.dtypes import DTYPES
from saft.merging.inputs import peft_adapter
from saft.merging.inputs.class_names import in_class
from saft.merging.inputs.lora_change import PREFIX, is_transposed
from saft.merging.inputs.tensor_names import can_be_factored
from saft.merging.merge_config import MergeConfig
from saft.merging.method import Elementwise, Method
from saft.merging.outputs.output import OUTPUTS, Output, Written
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.merging.stream.reader import Progress, one_torch_thread
from saft.merging.stream.timing import seconds_of

__all__ = ["Adapter", "LowRankFit", "factors", "greatest_rank", "low_rank", "matrices", "peft_settings"]

T = TypeVar("T")

_ROUNDING = 1e-6
"""Share of a tensor that rounding may change."""
_SIDE = 128
"""Rows and columns of the matrix that factoring is tried on, to say how long it takes."""


@dataclass(frozen=True)
class LowRankFit:
    """How well the factors give the merged change back.

    Args:
        rank: of the factors.
        errors: name of a tensor -> ‖Δ − B A‖ / ‖Δ‖, in Frobenius norms; 1 for one that is left out.
        overall: the same over all tensors.
        left_out: tensors that change, and that no adapter of matrices can change: vectors, embeddings.
    """

    rank: int
    errors: Mapping[str, float]
    overall: float
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        left = f"; left out: {abbreviated(self.left_out)}" if self.left_out else ""
        return (
            f"adapter of rank {self.rank}: relative error {self.overall:.3g}, "
            f"at most {self.errors[worst]:.3g} (at '{worst}'){left}"
        )


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Return B and A of which the product is the nearest of its rank to a matrix.

    .. math:: \Delta = U S V^\top, \qquad B = U_r S_r^{1/2}, \qquad A = S_r^{1/2} V_r^\top

    Args:
        change: Δ, [rows, columns].
        rank: r, at least 1; beyond the rank of Δ the factors hold zeros.

    Returns:
        B, [rows, r], and A, [r, columns], float32.

    Example:
        >>> up, down = factors(torch.tensor([[2.0, 0.0], [0.0, 0.1]]), rank=1)
        >>> (up @ down).norm().isclose(torch.tensor(2.0)), up.shape, down.shape
        (tensor(True), torch.Size([2, 1]), torch.Size([1, 2]))
    """
    left, values, right = svd.decompose(change, rank)
    n_values, roots = len(values), values.sqrt()
    up, down = torch.zeros(len(change), rank), torch.zeros(rank, change.shape[1])
    up[:, :n_values] = left * roots
    down[:n_values] = roots.unsqueeze(1) * right
    return up, down


@OUTPUTS.register("adapter")
@dataclass(frozen=True)
class Adapter(Output):
    """The change λ · merged task vector as an adapter of the base, which peft loads.

    A matrix is factored; what is not a matrix, and embeddings, are left out and count in the error.

    Args:
        rank: of the factors, at least 1; what is beyond `greatest_rank` is left out.
    """

    rank: Count
    is_model = False
    precedence = 1

    @classmethod
    def asked_for(cls, config: MergeConfig, method: Method) -> Adapter | None:
        """Return it where a merge file has `adapter_rank`."""
        return None if config.adapter_rank is None else cls(config.adapter_rank)

    def conflicts(self, config: MergeConfig) -> Iterator[str]:
        """Yield what does not go with an adapter."""
        if config.shard_size is not None:
            yield "shard_size: an adapter is one file; leave it out"

    def problems(self, plan: Plan) -> Iterator[str]:
        """Yield a message where no matrix is merged that an adapter could change."""
        if not matrices(plan):
            yield (
                "adapter_rank: an adapter changes only matrices, and this merge changes "
                f"{abbreviated(_changing(plan) or plan.merged)}; exclude less, or leave adapter_rank out"
            )

    def bytes(self, plan: Plan) -> int:
        """Return the bytes of the factors; what does not change is left out when it is written."""
        sides = sum(sum(plan.layout[name][1]) for name in matrices(plan))
        return greatest_rank(plan, self.rank) * sides * DTYPES[plan.config.dtype or "float32"].itemsize

    def memory(self, plan: Plan) -> int:
        """Return twelve of the largest matrix for each thread, for its decomposition in float64 and what is
        around it, and the adapter."""
        largest = max((plan.base.headers[name].count for name in matrices(plan)), default=0)
        return 12 * plan.threads * largest * plan.arithmetic.itemsize + self.bytes(plan)

    def seconds(self, plan: Plan) -> float:
        """Return the seconds that the factors take, as many matrices at a time as there are threads."""
        sample = torch.randn(_SIDE, _SIDE, generator=torch.Generator())
        each = seconds_of(lambda: factors(sample, min(self.rank, _SIDE)))
        shapes = [plan.layout[name][1] for name in matrices(plan)]
        return each * sum(math.prod(shape) * min(shape) for shape in shapes) / _SIDE**3 / plan.threads

    def write(self, plan: Plan, folder: Path, progress: Progress | None = None) -> Written:
        """Merge tensor by tensor, factor each matrix, and write the factors and their config.

        Raises:
            UserError: as `Output.write`, or no matrix has changed.
        """
        tensors, fit = low_rank(plan, self.rank, progress)
        write_tensors(folder / peft_adapter.WEIGHTS, tensors)
        text = json.dumps(_config(plan, fit.rank, tensors), indent=2) + "\n"
        (folder / peft_adapter.CONFIG).write_text(text, "utf-8")
        error = {"overall": fit.overall, "by tensor": dict(fit.errors), "left out": fit.left_out}
        manifest = {"kind": "adapter", "adapter": {"rank": fit.rank, "relative error": error}}
        return Written(manifest, _CARD.format(fit=fit), str(fit), library="peft")


_CARD = """
## An adapter

This folder holds the change from the base as a LoRA adapter, not the merged weights: {fit}. `peft` adds it to
the base; `saft merge` takes it as `BASE+FOLDER`.
"""


def low_rank(plan: Plan, rank: int, progress: Progress | None = None) -> tuple[dict[str, Tensor], LowRankFit]:
    """Merge tensor by tensor, and factor the change λ · merged task vector of each matrix.

    Args:
        plan: from `check`.
        rank: of the factors; what is beyond `greatest_rank` is left out.
        progress: called with the bytes read.

    Returns:
        The factors, A [rank, inputs] and B [outputs, rank], under the names that peft's files have for them,
        in float32 or the merge's `dtype`; and how well they give the change back.

    Raises:
        UserError: an input is not finite, or no matrix changes.
    """
    rank = greatest_rank(plan, rank)
    transposed = is_transposed(plan.base.config)
    dtype = DTYPES[plan.config.dtype or "float32"]
    modules = in_class(plan.base, matrices(plan))
    tensors: dict[str, Tensor] = {}
    squares: dict[str, tuple[float, float]] = {}
    left_out = []

    def factored(name: str, task_vector: Tensor) -> _Factored:
        change = task_vector.float().mul_(plan.scaling)
        whole = _squared_norm(change)
        if whole == 0 or not can_be_factored(name, change.shape):
            return _Factored(name, whole, whole)
        flipped = transposed and not name.endswith("lm_head.weight")
        up, down = (part.to(dtype) for part in factors(change.T if flipped else change, rank))
        back = up.float() @ down.float()
        return _Factored(name, _squared_norm(change.sub_(back.T if flipped else back)), whole, (up, down))

    for one in _side_by_side(factored, engine.stream(plan, progress, _changing(plan)), plan.threads):
        if one.whole == 0:
            continue
        squares[one.name] = (one.rest, one.whole)
        if one.factors is None:
            left_out.append(one.name)
            continue
        module = PREFIX + modules[one.name].removesuffix(".weight")
        up, down = one.factors
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = down, up
    if not tensors:
        raise UserError("adapter_rank: no matrix changes in this merge, so there is nothing for an adapter")
    fit = LowRankFit(
        rank,
        {name: (rest / whole) ** 0.5 for name, (rest, whole) in squares.items()},
        (sum(rest for rest, _ in squares.values()) / sum(whole for _, whole in squares.values())) ** 0.5,
        tuple(left_out),
    )
    return tensors, fit


def matrices(plan: Plan) -> list[str]:
    """Return the names of the matrices of which an adapter would be made."""
    return [name for name in _changing(plan) if can_be_factored(name, plan.layout[name][1])]


def _changing(plan: Plan) -> list[str]:
    """Return the names of the merged tensors that the merge may change: not those that all models have from
    the base, but for a method that changes these too.
    """
    models = plan.models.values()
    return [
        name
        for name in plan.merged
        if not all(model.keeps(name, plan.base) for model in models)
        or _changes_the_base(plan.by_tensor.get(name, plan.method), len(models))
    ]


@functools.cache
def _changes_the_base(method: Method, tasks: int) -> bool:
    """Return whether a method gives another tensor than the base's where all models have just that: as a
    weighted average does whose weights do not add up to one.
    """
    base = torch.ones(2) if isinstance(method, Elementwise) else torch.ones(2, 2)
    merged = engine.merge_task_vectors(method, torch.zeros(tasks, *base.shape), base)
    return float(merged.abs().max()) > _ROUNDING


@dataclass(frozen=True)
class _Factored:
    """What becomes of one tensor's change: B and A, if it can be factored.

    Args:
        name: of the tensor.
        rest: square of the norm of what the factors lack.
        whole: square of the norm of the change.
        factors: B and A.
    """

    name: str
    rest: float
    whole: float
    factors: tuple[Tensor, Tensor] | None = None


def _side_by_side(
    function: Callable[[str, Tensor], T], merged: Iterable[tuple[str, Tensor]], threads: int
) -> Iterator[T]:
    """Apply a function to as many tensors at a time as there are threads, and give the results in order."""
    with one_torch_thread(), ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[T]] = deque()
        for name, tensor in merged:
            pending.append(pool.submit(function, name, tensor))
            if len(pending) >= threads:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


def greatest_rank(plan: Plan, wanted: int) -> int:
    """Return the rank of an adapter, which is no greater than any of the matrices can have.

    Args:
        plan: from `check`.
        wanted: that was asked for. All of it beyond that of the matrices would be zeros.
    """
    return min(wanted, max((min(plan.layout[name][1]) for name in matrices(plan)), default=1))


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def peft_settings(tensors: Mapping[str, Tensor], rank: int, transposed: bool) -> dict[str, Any]:
    """Return what a LoraConfig of peft says of factors: which modules they change, by a scale of one.

    Args:
        tensors: the factors, under peft's names.
        rank: of each.
        transposed: whether the base stores its matrices as [in, out].
    """
    modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}
    return {
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(modules),
        "modules_to_save": None,
    }


def _config(plan: Plan, rank: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    hub = is_hub_id(plan.base.location)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": _auto_mapping(plan.base.config),
        "base_model_name_or_path": plan.base.location if hub else str(plan.base.folder.absolute()),
        "inference_mode": True,
        **peft_settings(tensors, rank, is_transposed(plan.base.config)),
    }


def _auto_mapping(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the class by which peft's AutoPeftModel and its like load a base of this config."""
    architectures = config.get("architectures")
    if not architectures or "auto_map" in config:  # code of its own, which is not carried out
        return None
    return {"base_model_class": str(architectures[0]), "parent_library": "transformers"}
