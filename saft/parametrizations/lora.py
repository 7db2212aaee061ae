"""LoRA: two small factors are trained beside every matrix; the folder is an adapter of peft's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from saft.config import Count, Positive, Range, checked
from saft.errors import UserError, abbreviated, as_user_error, did_you_mean
from saft.extras import require
from saft.files.checkpoint import write_tensors
from saft.files.locations import is_hub_id
from saft.merging.inputs.peft_adapter import WEIGHTS
from saft.models import Conv1D
from saft.parametrizations.parametrization import (
    PARAMETRIZATIONS,
    Climbed,
    Losses,
    Parametrization,
    write_side_files,
)
from saft.progress import note

__all__ = ["LoRA"]

_MAMBA = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


@PARAMETRIZATIONS.register("lora")
@checked
@dataclass(frozen=True)
class LoRA(Parametrization):
    r"""LoRA: $W = W_0 + \frac{\alpha}{r} B A$ with trained $A \in R^{r \times k}$ and $B \in R^{d \times r}$.

    B starts at 0. A merge takes the full change $\frac{\alpha}{r} B A$ of each expert. An average along the
    trajectory is one of the factors. SAM perturbs the factors, so that its rho is a radius in their space; or
    the full change:

    .. math:: \epsilon = \rho\, G / \|G\|_2, \quad G = \partial L / \partial W; \qquad
       \nabla_A = \tfrac{\alpha}{r} B^\top G', \quad \nabla_B = \tfrac{\alpha}{r} G' A^\top, \quad
       G' = \partial L / \partial W \text{ at } W_0 + \tfrac{\alpha}{r} B A + \epsilon

    with the norm over all adapted matrices and what else is trained together; rho is then a radius in weight
    space, as in an arm that trains every weight. While a step lasts it holds one gradient as large as these
    matrices.

    Args:
        rank: r, at least 1.
        alpha: above 0; null is the rank, a scale of one.
        targets: last parts of the names of linear layers; null takes all of the trunk, but for the language
            head.
        dropout: of what A reads, in [0, 1); G is taken at the matrices, which have none.
        rho_space: what SAM perturbs: "factors", or "weights", the full change; of plain SAM.

    Raises:
        UserError: peft is not installed.

    Example:
        >>> from collections import OrderedDict
        >>> trunk = nn.Sequential(OrderedDict(query=nn.Linear(3, 3), key=nn.Linear(3, 3)))
        >>> LoRA(rank=2, targets=["query"]).wrap(trunk, losses=lambda count: iter(()))
        >>> [(name, tuple(p.shape)) for name, p in trunk.named_parameters() if p.requires_grad]
        [('query.lora_A.default.weight', (2, 3)), ('query.lora_B.default.weight', (3, 2))]

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, by
    peft, with its start (Kaiming-uniform A). Differs from peft's defaults: alpha, and all linear layers.
    """

    rank: Count = 8
    """Rank of the change of each matrix."""
    alpha: Positive | None = None
    """The change is scaled by alpha / rank; null is the rank."""
    targets: list[str] | None = None
    """Last parts of the names of linear layers, such as [query, value]; null is all but the language head."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Dropout of what the first factor reads, in [0, 1)."""

    rho_space: Literal["factors", "weights"] = "factors"
    """What SAM perturbs: the factors, or the full change of the matrices; rho is a radius there."""

    is_adapter: ClassVar[bool] = True
    has_norms: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("peft", "lora")
        if self.targets == []:
            raise ValueError("targets: must not be empty; leave it out to take all linear layers")

    def wrap(self, trunk: nn.Module, losses: Losses) -> None:
        """Freeze the trunk and put factors beside its matrices; see `Parametrization.wrap`.

        Raises:
            UserError: the trunk has no linear layer, or none that is asked for, or peft does not adapt one.
        """
        import peft

        settings = self._peft_config(trunk)
        refused = (
            f"parametrization: targets: write others, peft does not take these of {type(trunk).__name__}"
        )
        with warnings.catch_warnings(), as_user_error(refused):
            warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")  # peft decides it for each layer
            peft.inject_adapter_in_model(settings, trunk)

    @property
    def climbs_weights(self) -> bool:
        """Whether SAM perturbs the full change."""
        return self.rho_space == "weights"

    def climbed(self, trunk: nn.Module) -> Climbed | None:
        """Return the adapted matrices, and their factors; see `Parametrization.climbed`."""
        if self.rho_space == "factors":
            return None
        layers: Any = [module for module in trunk.modules() if hasattr(module, "base_layer")]
        factors = [p for name, p in trunk.named_parameters() if ".lora_" in name]
        return Climbed([layer.base_layer.weight for layer in layers], factors)

    def saved_weights(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return how many weights the two factors of each matrix hold; embeddings count as matrices here.

        Args:
            shapes: name of a tensor of the base model -> its shape.
        """
        matrices = [
            shape
            for name, shape in shapes.items()
            if len(shape) == 2
            if not self.targets or name.removesuffix(".weight").rpartition(".")[2] in self.targets
        ]
        return sum(self.rank * (rows + columns) for rows, columns in matrices)

    def save(self, trunk: nn.Module, base: Path, folder: Path, location: str) -> None:
        """Write the factors and their config as peft does, and what the base has beside its weights."""
        write_side_files(trunk, base, folder)
        state = {
            "base_model.model." + name.replace(".default.", "."): tensor
            for name, tensor in trunk.state_dict().items()
            if ".lora_" in name
        }
        write_tensors(folder / WEIGHTS, state)
        settings: Any = trunk.peft_config["default"]  # type: ignore[index]
        settings.base_model_name_or_path = location if is_hub_id(location) else str(base.absolute())
        settings.target_modules = sorted(settings.target_modules)  # a set, of no order
        settings.inference_mode = True
        kind = type(trunk)  # by which peft's AutoPeftModel and its like load the base
        settings.auto_mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
        settings.save_pretrained(folder)

    def _peft_config(self, trunk: nn.Module) -> Any:
        import peft

        head = getattr(trunk, "get_output_embeddings", lambda: None)()
        layers = {
            name: module
            for name, module in trunk.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head
        }
        if not layers:
            raise UserError(f"parametrization: lora: {type(trunk).__name__} has no linear layer")
        last = {name.rpartition(".")[2] for name in layers}
        for target in self.targets or ():
            if target not in last:
                raise UserError(
                    f"parametrization: targets: no linear layer of {type(trunk).__name__} is called "
                    f"'{target}'{did_you_mean(target, last)}"
                )
        names = [name for name in layers if not self.targets or name.rpartition(".")[2] in self.targets]
        most = max(min(layers[name].weight.shape) for name in names)
        if self.rank > most:
            note(
                f"parametrization: rank: {self.rank} is more than the rank that a matrix here can have, "
                f"{most}; the factors are larger than the matrices"
            )
        settings = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=names,
            fan_in_fan_out=all(isinstance(layers[name], Conv1D) for name in names),
        )
        if left_out := _not_adapted(trunk, settings):
            told = f"peft does not adapt {abbreviated(left_out)} of {type(trunk).__name__} as a linear layer"
            if self.targets:
                raise UserError(f"parametrization: targets: {told}; leave it out")
            note(f"parametrization: lora: {told}: what is left out stays as in the base")
            settings.target_modules = {name for name in names if name not in left_out}
        return settings


def _not_adapted(trunk: nn.Module, settings: Any) -> list[str]:
    """Return the linear layers that an adapter of plain LoRA, which peft can read, cannot change.

    Layers with the names that a mixture's experts had before they were one tensor, such as those of a shared
    expert, peft takes for them; and kernels of Mamba read the weights past an adapter.
    """
    kind = getattr(getattr(trunk, "config", None), "model_type", "")
    modules = set(settings.target_modules)
    left_out = {name for name in modules if kind in _MAMBA and name.rpartition(".")[2] == "out_proj"}
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers as convert
    except ImportError:  # an older peft, or transformers 4, which has no such tensors
        return sorted(left_out)
    converted = copy.deepcopy(settings)
    with as_user_error(
        f"parametrization: targets: write others, peft takes these of {type(trunk).__name__} for experts"
    ):
        convert(converted, model=trunk, conversions=None)
    return sorted(left_out | (modules - set(converted.target_modules)))
