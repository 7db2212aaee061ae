"""A mixture of low-rank experts as a torch module: each linear layer routes each token by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.files.tensorfile import view
from saft.interventions import forbid_save_pretrained
from saft.merging.inputs import task_parts
from saft.merging.inputs.tensor_names import match
from saft.merging.methods.smile import Smile
from saft.models import model_of
from saft.stored_names import stored_names

__all__ = ["SmileLinear", "load_mixture"]


class SmileLinear(nn.Module):
    r"""A linear layer with one low-rank expert per task, of which each token is sent to the likeliest.

    .. math:: w = \text{top\_k}\,\text{softmax}_t(\lVert R_t x \rVert_2), \qquad
       y = W_0 x + b_0 + \lambda \sum_t \frac{w_t}{\sum_j w_j} (U_t\, SV_t\, x + \Delta b_t)

    Args:
        base: the base's layer.
        pieces: `U` [tasks, outputs, rank], `SV` [tasks, rank, inputs], `router` [tasks, gate_rank, inputs],
            and `bias` [tasks, outputs] where the layer has one.
        top_k: experts that each token goes to.
        scaling: λ.

    Example:
        >>> eye = torch.eye(2).unsqueeze(0)
        >>> layer = SmileLinear(nn.Linear(2, 2, bias=False), {"U": eye, "SV": eye, "router": eye}, top_k=1)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> layer(x).equal(layer.base(x) + x)
        True

    Source: Tang et al. 2024, SMILE (arXiv 2408.10174). The softmax is taken in float32.
    """

    def __init__(
        self, base: nn.Linear, pieces: Mapping[str, Tensor], top_k: int, scaling: float = 1.0
    ) -> None:
        super().__init__()
        dtype = base.weight.dtype
        self.base = base
        self.top_k = top_k
        self.scaling = scaling
        self.U = nn.Parameter(pieces["U"].to(dtype))
        self.SV = nn.Parameter(pieces["SV"].to(dtype))
        self.router = nn.Parameter(pieces["router"].to(dtype))
        self.expert_bias = nn.Parameter(pieces["bias"].to(dtype)) if "bias" in pieces else None

    @property
    def weight(self) -> Tensor:
        """The base's weight, [outputs, inputs]: some models look up its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, [outputs]; None without one."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return y, [..., outputs], of x, [..., inputs]."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.route(tokens)
        result: Tensor = self.base(tokens)
        for task in range(len(self.U)):
            rows, places = (chosen == task).nonzero(as_tuple=True)
            expert = tokens[rows] @ self.SV[task].T @ self.U[task].T
            if self.expert_bias is not None:
                expert = expert + self.expert_bias[task]
            share = (self.scaling * weights[rows, places]).to(expert.dtype).unsqueeze(1)
            result = result.index_add(0, rows, (share * expert).to(result.dtype))
        return result.view(*x.shape[:-1], result.shape[-1])

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares and the numbers of the experts that each token goes to, both [tokens, top_k]."""
        seen = torch.einsum("tgi,ni->ntg", self.router, tokens)
        likely = torch.linalg.vector_norm(seen.float(), dim=-1).softmax(dim=-1)
        weights, chosen = likely.topk(self.top_k, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), chosen


def load_mixture(folder: str | Path, kind: Any = None) -> Any:
    """Load the whole mixture from a folder that `saft merge` has written by SMILE: it needs no task.

    Args:
        folder: where it is, or a hub id.
        kind: class of transformers to load it as, such as `AutoModel`; default: the one in config.json.

    Returns:
        A transformers model with a `SmileLinear` for each linear layer, in evaluation mode.

    Raises:
        UserError: the folder holds something else, or experts for a layer that is not a `torch.nn.Linear`.

    Example:
        >>> load_mixture("./no-folder")
        Traceback (most recent call last):
        saft.errors.UserError: folder: there is no './no-folder' ...
    """
    location = local_folder(folder, "folder")
    parts = task_parts.read(location)
    if not isinstance(parts.method, Smile):
        raise UserError(
            f"{location}: was merged by {parts.manifest['method']}, whose parts are not experts to route to; "
            "load a task's model with saft.load_task"
        )
    weights = ((name, view(header).to(parts.dtype(name))) for name, header in parts.base.items())
    model = model_of(location, weights, kind)
    experts = [parts.part(task) for task in parts.tasks]
    modules = dict(model.named_modules())
    prefix = getattr(model, "base_model_prefix", "") + "."
    own = {stored: name for name, stored in stored_names(model).items()}
    for name in (name for name, pieces in experts[0].items() if "U" in pieces):
        stored = match(name, own, prefix)
        path = (own[stored] if stored else name).removesuffix(".weight")
        layer = modules.get(path)
        if not isinstance(layer, nn.Linear):
            _refuse(location, name, layer, model)
        pieces = {key: torch.stack([part[name][key] for part in experts]) for key in experts[0][name]}
        bias = name.removesuffix("weight") + "bias"
        if bias in experts[0]:
            pieces["bias"] = torch.stack([part[bias]["bias"] for part in experts])
        model.set_submodule(path, SmileLinear(layer, pieces, parts.method.top_k, parts.scaling))
    forbid_save_pretrained(model, "save_pretrained would leave out the experts")
    return model.eval()


def _refuse(location: Path, name: str, layer: nn.Module | None, model: nn.Module) -> NoReturn:
    what = "has no such layer" if layer is None else f"has a {type(layer).__name__} there, and no Linear"
    raise UserError(
        f"{location}: holds experts for '{name}', but {type(model).__name__} {what}; give another kind, or "
        f'merge again with exclude: ["{name}"]'
    )
