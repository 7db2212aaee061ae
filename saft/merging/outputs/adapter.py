"""A merge written as a LoRA adapter of the base: the merged change, factored by singular values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.errors import UserError, abbreviated
from saft.files.checkpoint import staged, write_card, write_manifest, write_tensors
from saft.files.locations import is_hub_id
from saft.merging.algebra import svd
from saft.merging.inputs import peft_adapter
from saft.merging.inputs.tensor_names import can_be_factored
from saft.merging.outputs import record
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.merging.stream.reader import Progress, one_torch_thread

__all__ = ["Refactored", "check", "factors", "write"]


@dataclass(frozen=True)
class Refactored:
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
    found, roots = len(values), values.sqrt()
    up, down = torch.zeros(len(change), rank), torch.zeros(rank, change.shape[1])
    up[:, :found] = left * roots
    down[:found] = roots.unsqueeze(1) * right
    return up, down


def check(plan: Plan) -> None:
    """Refuse a merge of which no adapter can be made.

    Raises:
        UserError: no matrix is merged that an adapter could change.
    """
    if not plan.factored:
        raise UserError(
            "adapter_rank: an adapter changes only matrices, and this merge changes "
            f"{abbreviated(plan.merged)}; exclude less, or leave adapter_rank out"
        )


def write(
    plan: Plan, rank: int, out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> Refactored:
    """Write the change λ · merged task vector as an adapter that peft loads.

    A matrix is factored; what is no matrix, and embeddings, are left out and count in the error.

    Args:
        plan: from `engine.check`.
        rank: of the factors, at least 1.
        out: the folder; it appears when it is complete.
        overwrite: replace a folder that is there.
        progress: told about bytes read.

    Returns:
        How well the factors give the change back.

    Raises:
        UserError: an input is not finite, nothing changes that could be factored, or `out` is not empty.
    """
    transposed = peft_adapter.is_transposed(plan.base.folder)
    dtype = plan.layout[plan.merged[0]][0] if plan.config.dtype else torch.float32
    tensors: dict[str, Tensor] = {}
    squares: dict[str, tuple[float, float]] = {}
    left_out = []
    with staged(out, overwrite) as folder, record.digests(plan) as digests:
        for name, task_vector in engine.stream(plan, progress):
            change = task_vector.float().mul_(plan.scaling)
            whole = _squared_norm(change)
            if whole == 0:
                continue
            if not can_be_factored(name, change.shape):
                left_out.append(name)
                squares[name] = (whole, whole)
                continue
            flipped = transposed and not name.endswith("lm_head.weight")
            module = "base_model.model." + name.removesuffix(".weight")
            with one_torch_thread():
                up, down = (part.to(dtype) for part in factors(change.T if flipped else change, rank))
                back = up.float() @ down.float()
                rest = _squared_norm(change.sub_(back.T if flipped else back))
            squares[name] = (rest, whole)
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = down, up
        if not tensors:
            raise UserError(f"{out}: no matrix changes in this merge, so there is nothing for an adapter")
        result = Refactored(
            rank,
            {name: (rest / whole) ** 0.5 for name, (rest, whole) in squares.items()},
            (sum(rest for rest, _ in squares.values()) / sum(whole for _, whole in squares.values())) ** 0.5,
            tuple(left_out),
        )
        write_tensors(folder / peft_adapter.WEIGHTS, tensors)
        text = json.dumps(_config(plan, rank, tensors, transposed), indent=2) + "\n"
        (folder / peft_adapter.CONFIG).write_text(text, "utf-8")
        _describe(plan, folder, result, digests())
    return result


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _config(plan: Plan, rank: int, tensors: Mapping[str, Tensor], transposed: bool) -> dict[str, Any]:
    modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    hub = is_hub_id(plan.base.location)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": plan.base.location if hub else str(plan.base.folder.absolute()),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # a scale of one
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(modules),
        "modules_to_save": None,
    }


def _describe(plan: Plan, folder: Path, result: Refactored, digests: Mapping[Path, str]) -> None:
    stated = record.manifest(plan, digests)
    error = {"overall": result.overall, "by tensor": dict(result.errors), "left out": result.left_out}
    adapter = {"rank": result.rank, "relative error": error}
    write_manifest(folder, stated | {"kind": "adapter", "adapter": adapter})
    write_card(
        folder,
        f"{' + '.join(plan.models)}, merged by {plan.config.method}, as an adapter",
        f"The change of {record.formula(plan)} from the base, factored: {result}.\n\n"
        f"Base: `{plan.base.location}`. `saft.json` holds the SHA-256 of every input.",
        library_name="peft",
        tags=["merge", "saft", plan.config.method],
    )
