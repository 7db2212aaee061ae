"""The merge file: what to merge, how, and in what form the result is written."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from saft.config import Count, CountOrZero, FiniteFloat, Name, Positive, Repository, Seed, checked
from saft.errors import UserError
from saft.files.locations import by_name

__all__ = [
    "VOCABULARIES",
    "DataConfig",
    "InterventionConfig",
    "Lines",
    "MergeConfig",
    "size_in_bytes",
]

LAYERS = r"(?:^|\.)(?:layers?|blocks?|resblocks|h)\.(\d+)\."
VOCABULARIES = ("refuse", "base")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@checked
@dataclass(frozen=True)
class DataConfig:
    """The examples of each task that a method reads; their labels are not looked at."""

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model -> the task it was fine-tuned on, as in `saft run`; what is not named is taken from the model's
    own saft.json."""
    split: Literal["train", "validation"] = "validation"
    """The split that they are taken from; the test split cannot be."""
    examples: Count = 256
    """At most this many examples of each task."""
    batch_size: Count = 16
    """Examples in a forward pass."""


@checked
@dataclass(frozen=True)
class InterventionConfig:
    """How interventions are trained after the merge (IntervMerge); they read the examples in `data`."""

    rank: Count = 1
    """Rank of each intervention."""
    positions: Literal["first", "all"] | None = None
    """Tokens that are changed; null takes the first where every task reads only that, else all."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    iterations: CountOrZero = 500
    """Steps of Adam for each task."""


@checked
@dataclass(frozen=True)
class Lines:
    r"""LiNeS, after any method that gives one model: layer l of L is scaled by a factor that grows with l.

    .. math:: \theta = \theta_0 + \lambda \left(\alpha + \beta\,\frac{l}{L - 1}\right) \tau

    for l from 0; embeddings, norms and heads outside the layers get α, and so does a stack of a single layer.
    Where a model has several stacks, such as an encoder and a decoder, each is counted by itself. λ is 1 here
    unless `scaling` is given. With α unset it is what makes up for the smaller norm of a merged vector,

    .. math:: \alpha = \frac{1}{K} \frac{\lVert \sum_t \tau_t \rVert_1}{\lVert \tau \rVert_1}

    over all merged tensors; 1/K where nothing is left of the merged vector.

    Example:
        >>> Lines(beta=0.5, alpha=0.1).describe()
        'layer l of L times α + 0.5 l/(L − 1), with α = 0.1 (LiNeS, arXiv 2410.17146)'

    Source: Wang et al. 2025, LiNeS: post-training layer scaling (arXiv 2410.17146). Differs: the authors find
    a layer's number by looking for 0, 1, 2, ... anywhere in a name, so that `layer.3.mlp.0` is taken for
    layer 0; where they trim task vectors beforehand they take the trimmed ones for α.
    """

    beta: FiniteFloat = 0.5
    """How much more the last layer is scaled than the first; the authors try 0.1, 0.2, ... 1.0 on validation
    data."""
    alpha: FiniteFloat | None = None
    """Factor of the first layer; null takes it from the norms. For a single task vector the authors try
    several and take 1 - alpha as beta."""
    layers: str = LAYERS
    """Regular expression that finds the number of a layer, its one group, in a tensor's name; the first match
    counts, and what stands before the number names the stack of layers."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.layers).groups
        except re.error as error:
            raise ValueError(f"layers: '{self.layers}' is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"layers: '{self.layers}' must have one group, the layer's number")

    def describe(self) -> str:
        """Return what is done, for a model card."""
        alpha = "‖Σₜ τₜ‖₁ / (K ‖τ‖₁)" if self.alpha is None else f"{self.alpha:g}"
        return f"layer l of L times α + {self.beta:g} l/(L − 1), with α = {alpha} (LiNeS, arXiv 2410.17146)"


@checked
@dataclass(frozen=True)
class MergeConfig:
    """What to merge, and how.

    Example:
        >>> config = MergeConfig("ties", "base", ["runs/a", "runs/b"], parameters={"density": 0.2})
        >>> config.by_task()
        {'a': 'runs/a', 'b': 'runs/b'}
    """

    method: str
    """Name of a merge method; `saft methods` lists them."""
    base: str
    """The base model: a folder, a hub id, or package://DISTRIBUTION/path/inside."""
    models: list[str] | dict[Name, str]
    """The fine-tuned models, as a list or as {task: model}; the order is the order of summation."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method; `saft methods NAME` lists them."""
    varying: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method that differ from tensor to tensor: parameter -> a list of numbers that are
    spread over the layers, or a list of {filter: part of a name, value: ...}; of a parameter with a number
    for each model, a list of such settings."""
    scaling: FiniteFloat | None = None
    """The scaling coefficient lambda in base + lambda * merged task vector; null takes the method's
    default."""
    dtype: str | None = None
    """Data type of the output: float32, bfloat16, float16 or float64; null takes the base's."""
    exclude: list[str] = field(default_factory=list)
    """Globs of tensor names that are copied from the base, for example "classifier.*"."""
    seed: Seed = 0
    """Seed of methods that draw random numbers."""
    lines: Lines | None = None
    """LiNeS: how the merged layers are scaled, for example {beta: 0.5}; null leaves them as they are."""
    adapter_rank: Count | None = None
    """Write the merged change of the base's matrices as a LoRA adapter of this rank instead of whole weights;
    null writes the weights."""
    output: dict[str, Any] | None = None
    """Form of the result by its name and options: {name: adapter, rank: 16}, or one of your own,
    {name: "package.module:Name", ...}; null takes whole weights, or what the other keys ask for."""
    shard_size: int | str | None = None
    """Weights that one file may hold, for example 1GB or 500MiB; null writes a single file."""
    upload: Repository | None = None
    """Repository of the hub that the folder is uploaded to when it is complete, OWNER/NAME; one that is not
    there is made, private. Whether that is allowed is asked before the merge."""

    vocabulary: str = "refuse"
    """What to do where a model's vocabulary differs from the base's: refuse, or give its embeddings and head
    the base's rows (base): rows beyond them are cut, rows that it lacks stay the base's."""

    arithmetic: str = "float32"
    """Precision of the arithmetic: float32 or float64; the result is cast once, when it is written."""
    device: str = "cpu"
    """Where it is computed: cpu, or cuda, through which the blocks are moved."""
    block_size: int | str | None = None
    """Task vectors that a thread works on at a time, where a method does not need whole tensors; less needs
    less memory. null: 2MiB, on a GPU 64MiB; twice that for a method without statistics."""

    data: DataConfig = field(default_factory=DataConfig)
    """Examples of each task, for methods that need them, `saft methods` says which, and for interventions."""
    interventions: InterventionConfig | None = None
    """Train an intervention for each task after the merge (IntervMerge); {} does with the defaults: rank 1,
    positions null, learning_rate 0.001, iterations 500."""

    def by_task(self) -> dict[str, str]:
        """Return task -> model; see `saft.files.locations.by_name`."""
        return by_name(self.models)


def size_in_bytes(what: str, size: int | str) -> int:
    """Return the bytes that a size such as `500MB`, `1.5 GiB` or 4096 stands for.

    Args:
        what: the size's place, for messages.
        size: a number with a unit of 1000s (kB, MB, GB) or 1024s (KiB, MiB, GiB); without one, bytes.

    Raises:
        UserError: it is not a size, or less than one byte.

    Example:
        >>> size_in_bytes("shard_size", "1.5 GiB")
        1610612736
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", str(size).strip())
    unit = _UNITS.get(match[2].upper(), 0) if match else 0
    number = float(match[1]) * unit if match else 0.0
    if not 1 <= number <= sys.maxsize:
        raise UserError(f"{what}: '{size}' is not a size; write a number and MB, GB, MiB or GiB, such as 1GB")
    return int(number)
