"""Kronecker factors: what a task's inputs say of each layer at the base, as two matrices to share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from saft.errors import UserError
from saft.files.staging import replaced
from saft.models import Conv1D
from saft.penalties.cache import digest
from saft.penalties.low_rank import adapted_layers, base_state
from saft.penalties.penalty import without_dropout
from saft.penalties.unlabelled import Unlabelled

__all__ = ["KroneckerFactors", "Matrices", "flat_weight", "summarize"]

_BATCH = 32


@dataclass(frozen=True)
class Matrices:
    """The two factors of one layer.

    Args:
        inputs: A, [inputs, inputs], where the layer has a bias with one more input that is always 1; for an
            embedding its diagonal, [tokens].
        outputs: B, [outputs, outputs].

    Example:
        >>> Matrices(torch.eye(3), 2 * torch.eye(2)).product(torch.ones(2, 3))
        tensor([[2., 2., 2.],
                [2., 2., 2.]])
    """

    inputs: Tensor
    outputs: Tensor

    def product(self, delta: Tensor) -> Tensor:
        """Return B delta A, as large as delta, [outputs, inputs].

        Args:
            delta: [outputs, inputs].
        """
        by_inputs = delta * self.inputs if self.inputs.dim() == 1 else delta @ self.inputs
        return self.outputs @ by_inputs


@dataclass(frozen=True)
class KroneckerFactors:
    r"""Two matrices a layer: $B \otimes A$ stands for the curvature of the squared drift at the base.

    .. math:: A = E_{x, t}[a_t a_t^\top], \qquad B = E_x\left[\sum_t g_t g_t^\top\right], \qquad
       g_t = \frac{\partial\, r^\top h(x) / \lVert h(x) \rVert}{\partial y_t}, \quad r \sim N(0, I)

    a are the inputs of a linear layer at the tokens t of x, y its outputs, h the features. Padding, whose
    outputs have no gradient, is left out.

    Args:
        layers: name of the layer in the trunk -> its matrices.
        base: SHA-256 of the weights that they were made at; "" where it is not known.

    Example:
        >>> one = KroneckerFactors({"layer": Matrices(torch.ones(2, 2), torch.ones(1, 1))})
        >>> KroneckerFactors.mean([one, one]).layers["layer"].outputs
        tensor([[1.]])

    Source: Martens and Grosse, ICML 2015 (K-FAC), in the form for layers that are applied at many tokens of
    Eschenhagen et al., NeurIPS 2023 ("expand"); as a penalty for merging: Porrello et al., TAK, ICLR 2026.
    """

    layers: dict[str, Matrices]
    base: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """Return all matrices under the names of the file, in the shapes that `Matrices` says."""
        return {
            f"{name}.{which}": getattr(matrices, which)
            for name, matrices in self.layers.items()
            for which in ("inputs", "outputs")
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> KroneckerFactors:
        """Return the factors whose `tensors` these are.

        Args:
            tensors: what `tensors` returned: LAYER.inputs and LAYER.outputs, shaped as `Matrices` says.
        """
        names = [name.removesuffix(".inputs") for name in tensors if name.endswith(".inputs")]
        return cls({name: Matrices(tensors[f"{name}.inputs"], tensors[f"{name}.outputs"]) for name in names})

    @classmethod
    def mean(cls, parts: Iterable[KroneckerFactors]) -> KroneckerFactors:
        """Return the mean of each matrix over several tasks, of which one is held at a time.

        A layer that a task lacks, since its features do not depend on it, counts there as zeros.
        """
        total: dict[str, Tensor] = {}
        count = 0
        for count, part in enumerate(parts, start=1):  # noqa: B007 - read below
            for name, tensor in part.tensors().items():
                total[name] = total[name] + tensor if name in total else tensor
        return cls.of({name: tensor / count for name, tensor in total.items()})

    def packed(self, rank: int | None = None) -> dict[str, Tensor]:
        """Return what is written of them: all, or of each square matrix a part of low rank and a diagonal.

        Args:
            rank: how many eigenvectors of each square matrix are kept, the largest, times the root of their
                eigenvalues, LAYER.inputs.vectors [inputs, rank]; of what is left its diagonal,
                LAYER.inputs.rest. At least 0, which keeps the diagonal alone; None keeps all.
        """
        result: dict[str, Tensor] = {}
        for name, tensor in self.tensors().items():
            if rank is None or tensor.dim() == 1 or rank + 1 >= len(tensor):
                result[name] = tensor
            else:
                vectors = _largest(tensor, rank)
                rest = (tensor.diagonal() - vectors.square().sum(1)).clamp_min(0)
                result |= {f"{name}.vectors": vectors, f"{name}.rest": rest}
        return result

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor]) -> KroneckerFactors:
        """Return the factors of what `packed` returned, whole or as near as its rank allows.

        Example:
            >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
            >>> factors = KroneckerFactors({"layer": Matrices(matrix, matrix)})
            >>> KroneckerFactors.unpacked(factors.packed(rank=0)).layers["layer"].inputs
            tensor([[2., 0.],
                    [0., 2.]])
        """
        whole = dict(tensors)
        for name in [name.removesuffix(".rest") for name in tensors if name.endswith(".rest")]:
            vectors, rest = whole.pop(f"{name}.vectors"), whole.pop(f"{name}.rest")
            whole[name] = vectors @ vectors.T + torch.diag(rest)
        return cls.of(whole)

    def write(self, file: Path, rank: int | None = None) -> int:
        """Write a safetensors file: complete, or absent.

        Args:
            file: to write.
            rank: see `packed`.

        Returns:
            How many numbers it holds.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.packed(rank).items()}
        with replaced(file) as temporary:
            # One entry only: safetensors writes several in an order that changes from process to process.
            save_file(tensors, temporary, metadata={"base": self.base})
        return sum(tensor.numel() for tensor in tensors.values())

    @classmethod
    def read(cls, file: Path, device: torch.device | str = "cpu") -> KroneckerFactors:
        """Read what `write` wrote.

        Raises:
            UserError: no such file, or it holds something else, or a matrix is not finite.
        """
        base, tensors = cls.base_of(file), load_file(file, str(device))
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UserError(f"{file}: tensor {name} holds NaN or infinite values")
        return replace(cls.unpacked(tensors), base=base)

    @staticmethod
    def base_of(file: Path) -> str:
        """Return which base a file's factors were made at, without reading them; "" where it is not known.

        Raises:
            UserError: no such file, or it holds something else.
        """
        try:
            with safe_open(file, "pt") as opened:
                names, noted = set(opened.keys()), opened.metadata() or {}
        except FileNotFoundError:
            raise UserError(f"{file}: there is no such file") from None
        except SafetensorError as error:
            raise UserError(f"{file}: is not a whole safetensors file: {error}") from None
        if not _are_factors(names):
            raise UserError(f"{file}: holds no Kronecker factors, but {sorted(names)[:3]}")
        return str(noted.get("base", ""))


def summarize(trunk: nn.Module, source: Unlabelled, examples: int = 192, seed: int = 0) -> KroneckerFactors:
    """Return the Kronecker factors of a task's first training inputs.

    What they reveal: of an embedding, which tokens occur in these inputs and how often; of the others, second
    moments of activations over all of them: the fewer they are, the more of each.

    Args:
        trunk: at the base.
        source: the task's inputs, without labels.
        examples: how many of them, at least 1; all where there are fewer.
        seed: of the random projections.

    Raises:
        UserError: there are no inputs.
    """
    count = min(examples, len(source))
    if not count:
        raise UserError("summarize: there are no training inputs")
    device = next(trunk.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    with without_dropout(trunk), torch.enable_grad(), _watched(trunk, sums):
        for start in range(0, count, _BATCH):
            inputs = source.inputs(range(start, min(start + _BATCH, count)), device)
            features = functional.normalize(source.features(trunk, inputs).float(), dim=-1)
            projection = torch.randn(features.shape, generator=generator).to(device)
            parameters = [p for p in trunk.parameters() if p.requires_grad]
            torch.autograd.grad((projection * features).sum(), parameters, allow_unused=True)
    layers = {name: Matrices(a / tokens.clamp_min(1), b / count) for name, (a, b, tokens) in sums.items()}
    return KroneckerFactors(layers, digest([base_state(trunk)]))


def _largest(matrix: Tensor, rank: int) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, each times the root of its own, [size, rank]."""
    if not rank:
        return matrix.new_empty(len(matrix), 0)
    values, vectors = torch.linalg.eigh(matrix)
    scaled: Tensor = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    return scaled


def _are_factors(names: set[str]) -> bool:
    """Return whether tensors of these names are both matrices of some layers, whole or packed."""
    vectors, rest = (
        {name.removesuffix(part) for name in names if name.endswith(part)} for part in (".vectors", ".rest")
    )
    matrices = vectors | {name for name in names if not name.endswith((".vectors", ".rest"))}
    layers = {name.rpartition(".")[0] for name in matrices}
    both = {f"{layer}.{which}" for layer in layers for which in ("inputs", "outputs")}
    return bool(layers) and vectors == rest and matrices == both


def flat_weight(layer: nn.Module) -> Tensor:
    """Return the weights of a layer as [outputs, inputs], with the bias as a last input; see `Matrices`.

    Example:
        >>> flat_weight(nn.Linear(3, 2)).shape
        torch.Size([2, 4])
    """
    layer = getattr(layer, "base_layer", layer)  # beneath an adapter
    weight: Tensor = layer.get_parameter("weight")
    if not isinstance(layer, nn.Linear):  # of an embedding [tokens, outputs], and GPT-2's layers like it
        weight = weight.T
    bias = getattr(layer, "bias", None)
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def _moments(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one batch adds to A and to B, and its number of tokens.

    Args:
        layer: linear or embedding.
        inputs: [..., inputs], or token numbers [...].
        gradient: of the outputs, [..., outputs].
    """
    g = gradient.reshape(-1, gradient.shape[-1]).float()
    present = (g != 0).any(-1).float()
    if isinstance(layer, nn.Embedding):
        seen = torch.bincount(inputs.reshape(-1), present, layer.num_embeddings)
    else:
        a = inputs.reshape(-1, inputs.shape[-1]).float() * present[:, None]
        if layer.bias is not None:
            a = torch.cat([a, present[:, None]], 1)
        seen = a.T @ a
    return seen, g.T @ g, present.sum()


@contextmanager
def _watched(trunk: nn.Module, sums: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Iterator[None]:
    """Add up the factors of every linear layer and embedding that a backward inside goes through."""

    def watch(name: str, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        if not output.requires_grad:
            return
        seen = inputs.detach()

        def after_backward(gradient: Tensor) -> None:
            with torch.autocast(seen.device.type, enabled=False):  # which would sum in bfloat16
                added = _moments(layer, seen, gradient)
            known = sums.get(name)
            sums[name] = tuple(map(torch.add, known, added)) if known else added  # type: ignore[assignment]

        output.register_hook(after_backward)  # type: ignore[no-untyped-call]

    def watched(name: str, layer: nn.Module) -> RemovableHandle:
        def after_forward(_: nn.Module, args: Any, options: dict[str, Any], output: Tensor) -> None:
            watch(name, layer, next(iter((*args, *options.values()))), output)

        return layer.register_forward_hook(after_forward, with_kwargs=True)

    layers = dict(trunk.named_modules())
    embeddings = [(name, m) for name, m in layers.items() if isinstance(m, nn.Embedding)]
    tables = {id(m.weight): (name, m) for name, m in reversed(embeddings)}  # a tied one by its first name
    adapted = adapted_layers(trunk)
    own = {name: m for name, m in layers.items() if not name.startswith(tuple(f"{a}." for a in adapted))}
    linear = {name: m for name, m in own.items() if isinstance(m, nn.Linear | Conv1D)} | adapted
    handles = [watched(name, m) for name, m in linear.items()]
    try:
        with _LookUps(lambda table, inputs, output: watch(*tables[id(table)], inputs, output), tables):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _LookUps(TorchFunctionMode):
    """Sees each look-up in a table: not every embedding is given what it looks up, or returns it as it is.

    OPT's embedding of positions is given the attention mask, BART's the tokens, whose number it counts; and
    what Gemma's returns is the rows times the root of their width.

    Args:
        tell: called with the table, the numbers of its rows and the rows.
        tables: their `id`s; other tables are not told of.
    """

    def __init__(self, tell: Callable[[Tensor, Tensor, Tensor], None], tables: Collection[int]) -> None:
        super().__init__()
        self._tell = tell
        self._tables = tables

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and tell of it where it is a look-up."""
        options = kwargs or {}
        output = func(*args, **options)
        if func is functional.embedding:
            inputs = args[0] if args else options["input"]
            table = args[1] if len(args) > 1 else options["weight"]
            if id(table) in self._tables:
                self._tell(table, inputs, output)
        return output
