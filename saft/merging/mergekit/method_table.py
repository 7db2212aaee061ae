"""The methods that mergekit and saft have in common: mergekit's names and defaults -> saft's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MERGE_METHODS", "MergeMethod", "Parameter"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of mergekit's: what saft calls it, and its default; None: it has to be given."""

    name: str
    default: Any = None
    kind: type = float


@dataclass(frozen=True)
class MergeMethod:
    """A method of mergekit's, in the terms of saft.

    Args:
        method: saft's name.
        fixed: parameters of saft's that are always so.
        per_model: mergekit's name -> parameter, of each model or of all.
        general: mergekit's name -> parameter, one for all models.
        takes_base: whether the base is one of the models that are merged.
        needs_base: whether there has to be a `base_model`.
        with_base: parameters of saft's that are so when there is a `base_model`.
        only: mergekit's name -> the one value that saft can do, which is mergekit's default.
    """

    method: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    per_model: Mapping[str, Parameter] = field(default_factory=dict)
    general: Mapping[str, Parameter] = field(default_factory=dict)
    takes_base: bool = False
    needs_base: bool = True
    with_base: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, bool] = field(default_factory=dict)


def _arithmetic(
    elect: bool, normalize: bool = False, rescale: bool = False, method: str = "mergekit", **fixed: Any
) -> MergeMethod:
    per_model = {"weight": Parameter("weights"), "density": Parameter("densities", 1.0)}
    if fixed.get("sparsify") == "outliers":
        per_model["gamma"] = Parameter("gammas", 0.01)
    if method == "mergekit_della":
        per_model["epsilon"] = Parameter("epsilons", 0.15)
    general = {
        "normalize": Parameter("normalize", normalize, bool),
        "rescale": Parameter("rescale", rescale, bool),
        "lambda": Parameter("coefficient", 1.0),
    }
    return MergeMethod(method, {"elect": elect, **fixed}, per_model, general)


_DARE: dict[str, Any] = {"method": "mergekit_dare", "rescale": True}
_DELLA: dict[str, Any] = {"method": "mergekit_della", "rescale": True}
MERGE_METHODS: Mapping[str, MergeMethod] = {
    "linear": MergeMethod(
        "linear",
        per_model={"weight": Parameter("weights")},
        general={"normalize": Parameter("normalize", True, bool)},
        takes_base=True,
        needs_base=False,
    ),
    "task_arithmetic": _arithmetic(elect=False),
    "ties": _arithmetic(elect=True, normalize=True, sparsify="magnitude"),
    "breadcrumbs": _arithmetic(elect=False, sparsify="outliers"),
    "breadcrumbs_ties": _arithmetic(elect=True, sparsify="outliers"),
    "dare_linear": _arithmetic(elect=False, **_DARE),
    "dare_ties": _arithmetic(elect=True, **_DARE),
    "della": _arithmetic(elect=True, normalize=True, **_DELLA),
    "della_linear": _arithmetic(elect=False, **_DELLA),
    "slerp": MergeMethod("slerp", general={"t": Parameter("t")}, takes_base=True),
    "nuslerp": MergeMethod(
        "nuslerp",
        per_model={"weight": Parameter("weights")},
        needs_base=False,
        with_base={"center": "base"},
        only={"nuslerp_row_wise": False, "nuslerp_flatten": True},
    ),
    "multislerp": MergeMethod(
        "multi_slerp",
        per_model={"weight": Parameter("weights")},
        general={"normalize_weights": Parameter("normalize", True, bool)},
        needs_base=False,
        with_base={"center": "base"},
    ),
    "karcher": MergeMethod(
        "karcher",
        general={
            "max_iter": Parameter("iterations", 10, int),
            "tol": Parameter("tolerance", 1e-5),
        },
        takes_base=True,
        needs_base=False,
    ),
    "sce": MergeMethod("mergekit_sce", general={"select_topk": Parameter("density", 1.0)}),
    "nearswap": MergeMethod("mergekit_nearswap", general={"t": Parameter("t")}),
    "arcee_fusion": MergeMethod("mergekit_arcee_fusion"),
    "ram": MergeMethod("mergekit_ram", general={"epsilon": Parameter("epsilon", 1e-5)}),
    "ramplus_tl": MergeMethod(
        "mergekit_ramplus_tl",
        general={
            "r": Parameter("r", 0.1),
            "alpha": Parameter("alpha", 0.2),
            "epsilon": Parameter("epsilon", 1e-5),
        },
    ),
    "model_stock": MergeMethod(
        "model_stock",
        fixed={"mean_of": "cosines"},
        general={"filter_wise": Parameter("filter_wise", False, bool)},
    ),
}
