"""Interventions: a few numbers per task that change what a merged model's attention blocks give on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.errors import UserError, did_you_mean
from saft.files.checkpoint import MANIFEST, PARTS, read_manifest, task_names, write_tensors
from saft.files.links import inside
from saft.files.tensorfile import read_headers, view
from saft.merging.inputs.tensor_names import match

__all__ = [
    "Intervention",
    "Positions",
    "are_in",
    "attach",
    "attach_from",
    "attention",
    "forbid_save_pretrained",
    "save",
]

Positions = Literal["first", "all"]

ATTENTION = {"attention", "self_attn", "attn", "self_attention", "SelfAttention"}
"""What transformers' models call the self-attention of a block."""


class Intervention(nn.Module):
    r"""Moves features within a subspace of low rank.

    .. math:: h' = h + W_2^\top (W_1 h + b_1 - W_2 h - b_2)

    It begins at W1 = W2 and b1 = b2, where it changes nothing.

    Args:
        width: of the features.
        rank: of the subspace, at least 1.
        positions: the tokens that are changed: the first, or all.

    Example:
        >>> intervention = Intervention(width=4, rank=1)
        >>> h = torch.randn(2, 3, 4)
        >>> intervention(h).equal(h)
        True

    Source: Tang et al. 2025, IntervMerge (arXiv 2412.17023), in the form NoReFT of Wu et al. 2024, ReFT
        (arXiv 2404.03592), which begins at independent random W1 and W2.
    """

    def __init__(self, width: int, rank: int, positions: Positions = "all") -> None:
        super().__init__()
        self.positions = positions
        self.W2 = nn.Parameter(nn.init.orthogonal_(torch.empty(min(rank, width), width)))
        self.W1 = nn.Parameter(self.W2.detach().clone())
        self.b2 = nn.Parameter(torch.zeros(len(self.W2)))
        self.b1 = nn.Parameter(torch.zeros(len(self.W2)))

    def forward(self, h: Tensor) -> Tensor:
        """Return the features, changed where the positions say, of the features [batch, tokens, width].

        Args:
            h: features, [batch, tokens, width].

        Returns:
            [batch, tokens, width].

        Raises:
            UserError: only the first token is changed, and the attention gives features without tokens.
        """
        if self.positions == "all":
            return self._changed(h)
        if h.dim() != 3:
            raise UserError(
                f"interventions: this model's attention gives {tuple(h.shape)}, in which no token is the "
                "first of its text; use positions: all"
            )
        return torch.cat([self._changed(h[:, :1]), h[:, 1:]], dim=1)

    def _changed(self, h: Tensor) -> Tensor:
        difference = functional.linear(h, self.W1 - self.W2, self.b1 - self.b2)
        return h + difference @ self.W2


def attention(model: nn.Module) -> dict[str, nn.Module]:
    """Return the self-attention of every block, of a model of any depth, by name.

    Raises:
        UserError: there is none that saft knows by its name.
    """
    attentions: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in attentions)
        if name.rpartition(".")[2] in ATTENTION and not inside:
            attentions[name] = module
    if not attentions:
        raise UserError(
            f"interventions: {type(model).__name__} has no block whose attention is called one of "
            f"{', '.join(sorted(ATTENTION))}"
        )
    return attentions


def attach(model: nn.Module, interventions: Mapping[str, Intervention]) -> Callable[[], None]:
    """Let the modules called so give on what the interventions make of their output; return what ends it."""
    handles = []
    for name, intervention in interventions.items():
        module = model.get_submodule(name)
        module.add_module("intervention", intervention)
        handles.append(module.register_forward_hook(_change))

    def end() -> None:
        for name, handle in zip(interventions, handles, strict=True):
            handle.remove()
            del model.get_submodule(name).intervention

    return end


def _change(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    change = module.get_submodule("intervention")
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def save(folder: Path, task: str, interventions: Mapping[str, Intervention]) -> None:
    """Write a task's interventions to folder/parts/TASK.safetensors.

    Args:
        folder: of the merged model.
        task: the task's name.
        interventions: name of the attention module -> what changes its output.
    """
    (folder / PARTS).mkdir(exist_ok=True)
    tensors = {
        f"{name}.{piece}": value.detach().cpu()
        for name, intervention in interventions.items()
        for piece, value in intervention.state_dict().items()
    }
    write_tensors(folder / PARTS / f"{task}.safetensors", tensors)


def are_in(folder: Path) -> bool:
    """Return whether a checkpoint folder holds interventions."""
    return (folder / MANIFEST).is_file() and "interventions" in read_manifest(folder)


def attach_from(folder: Path, model: nn.Module, task: str) -> None:
    """Attach the interventions of a task to the model that the same folder holds.

    Args:
        folder: of the merged model, with its manifest and parts.
        model: the model that the folder holds.
        task: one of the manifest's tasks.

    Raises:
        UserError: there are none for this task, or they do not fit the model.
    """
    manifest = read_manifest(folder)
    tasks = task_names(manifest)
    if task not in tasks:
        raise UserError(f"{folder}: has no interventions for '{task}'{did_you_mean(task, tasks)}")
    settings = manifest["interventions"]
    stated = settings.get("positions") if isinstance(settings, dict) else None
    if stated not in ("first", "all"):
        raise UserError(f"{folder / MANIFEST}: interventions.positions: unknown {stated!r}; merge again")
    positions: Positions = "first" if stated == "first" else "all"
    file = inside(folder, f"{PARTS}/{task}.safetensors")
    if not file.is_file():
        raise UserError(f"{file}: is missing; the folder is damaged, merge or copy it again")
    pieces: dict[str, dict[str, Tensor]] = {}
    for key, header in read_headers(file).items():
        name, _, piece = key.rpartition(".")
        pieces.setdefault(name, {})[piece] = view(header)
    modules = dict(model.named_modules())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    by_path: dict[str, Intervention] = {}
    for name, state in pieces.items():
        path = match(name, modules, prefix)
        if path is None:
            raise UserError(f"{file}: '{name}' is not a module of {type(model).__name__}; give another kind")
        width = state["W2"].shape[-1] if "W2" in state and state["W2"].dim() == 2 else 0
        by_path[path] = Intervention(width, len(state["W2"]) if width else 0, positions)
        try:
            by_path[path].load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{file}: '{name}' is not an intervention; merge or copy it again") from error
    reference = next(model.parameters())
    for intervention in by_path.values():
        intervention.to(device=reference.device, dtype=reference.dtype)
    attach(model, by_path)
    forbid_save_pretrained(model, "save_pretrained would leave out the interventions")


def forbid_save_pretrained(model: Any, what: str) -> None:
    """Make `model.save_pretrained` refuse, since its folder would lack what `from_pretrained` does not know.

    Args:
        model: of transformers.
        what: it is, and what would be left out, for the message.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError(
            f"{what}, which from_pretrained does not know: copy the folder that the model came from, or save "
            "its state_dict()"
        )

    model.save_pretrained = refuse
