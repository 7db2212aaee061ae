"""What the name of a tensor tells: its table, its layer, and what another checkpoint calls it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = [
    "can_be_factored",
    "depth_in_stack",
    "is_lookup_table",
    "is_positions",
    "is_vocabulary",
    "match",
    "rename",
    "trunk_first",
    "unwrapped",
]

# Modules by the last part of their names, as transformers' models call them.
_WORDS = (
    *("shared", "embed_tokens", "embed_tokens_per_layer", "word_embeddings", "word_embedding"),
    *("wte", "embed", "tok_embeddings", "token_embedding", "token_embeddings", "tokens_embed"),
    *("embed_in", "embeddings"),
)
_HEADS = ("lm_head", "embed_out", "lm_loss", "decoder", "predictions", "prediction_head")
_POSITIONS = (
    *("position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed"),
    *("positional_embedding", "pos_embed", "position_embeds", "pos_embedding"),
)
# Where rows are looked up and not multiplied: those above and whatever else says so.
_LOOKED_UP = re.compile(r"embed|wte|wpe|^shared$|^relative_attention_bias$")
# The names that LayerNorm's weight and bias had in checkpoints of TensorFlow, as in bert-base-uncased.
_OLD_NAMES = {"gamma": "weight", "beta": "bias", "weight": "gamma", "bias": "beta"}
# What torch.compile, FSDP and activation checkpointing put before the names within a module.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def _module(name: str) -> str:
    """Return the last part of the name of the module that a tensor belongs to."""
    return name.rpartition(".")[0].rpartition(".")[2]


def is_vocabulary(name: str) -> bool:
    """Return whether a tensor has a row for each word of the vocabulary: word embeddings, and heads.

    Example:
        >>> is_vocabulary("model.shared.weight"), is_vocabulary("layers.0.shared_mlp.weight")
        (True, False)
        >>> is_vocabulary("embeddings.word_embeddings.weight"), is_vocabulary("embed_positions.weight")
        (True, False)
    """
    return _module(name) in (*_WORDS, *_HEADS)


def is_positions(name: str) -> bool:
    """Return whether a tensor has a row for each position of a text.

    Example:
        >>> is_positions("bert.embeddings.position_embeddings.weight"), is_positions("transformer.wpe.weight")
        (True, True)
    """
    return _module(name) in _POSITIONS


def is_lookup_table(name: str) -> bool:
    """Return whether the rows of a tensor are looked up, and not multiplied with: an embedding of any kind.

    Example:
        >>> is_lookup_table("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        True
        >>> is_lookup_table("layers.0.mlp.shared_expert_gate.weight")
        False
    """
    return _LOOKED_UP.search(_module(name)) is not None


def can_be_factored(name: str, shape: Collection[int]) -> bool:
    """Return whether a LoRA adapter can change a tensor: it is a matrix of a linear layer, and no embedding.

    Not those of sentence-transformers' modules, which are beside the model that an adapter is of.

    Example:
        >>> can_be_factored("layers.0.mlp.weight", (8, 2)), can_be_factored("embed_tokens.weight", (8, 2))
        (True, False)
    """
    return len(shape) == 2 and name.endswith(".weight") and "/" not in name and not is_lookup_table(name)


def trunk_first(name: str) -> tuple[int, str]:
    """Return a key that sorts embeddings before heads.

    Readers tie the head to the trunk, and look for the trunk's name; encoder-decoders call it `shared`.
    """
    module = _module(name)
    return (_WORDS.index(module) if module in _WORDS else len(_WORDS)), name


def depth_in_stack(names: Iterable[str], layer: str, of_single: float = 0.0) -> dict[str, float]:
    """Return how deep in its stack of layers each tensor is, from 0 in the first to 1 in the last.

    Args:
        names: of all tensors of a model; a tensor in no layer is left out of the result.
        layer: regular expression with one group, the number of the layer; the first match counts, and what
            stands before the number names the stack.
        of_single: depth of the layer of a stack that has no other.

    Example:
        >>> names = ["embed.weight", "layers.0.w", "layers.1.mlp.0.w", "layers.2.w"]
        >>> depth_in_stack(names, r"layers\\.(\\d+)\\.")
        {'layers.0.w': 0.0, 'layers.1.mlp.0.w': 0.5, 'layers.2.w': 1.0}
    """
    matches = {name: match for name in names if (match := re.search(layer, name))}
    last: dict[str, int] = {}
    for name, match in matches.items():
        stack = name[: match.start(1)]
        last[stack] = max(last.get(stack, 0), int(match[1]))
    return {
        name: int(match[1]) / last[stack] if last[stack := name[: match.start(1)]] else of_single
        for name, match in matches.items()
    }


def match(name: str, known: Collection[str], prefix: str | None = None) -> str | None:
    """Return the name in `known` that is a name but for a prefix, or None.

    A model with a head calls its trunk `bert.encoder...`, the bare model `encoder...`.

    Args:
        name: of a tensor or a module.
        known: names of the other checkpoint or model.
        prefix: that one may have and the other lack, with its dot; default: any first part of a name.

    Example:
        >>> match("encoder.w", ["bert.encoder.w", "bert.pooler.w"])
        'bert.encoder.w'
    """
    if name in known:
        return name
    if prefix is not None:
        return next((n for n in (prefix + name, name.removeprefix(prefix)) if n in known), None)
    _, _, shorter = name.partition(".")
    if shorter in known:
        return shorter
    longer = [other for other in known if other.partition(".")[2] == name]
    return longer[0] if len(longer) == 1 else None


def rename(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Return new name -> name, so that as many tensors as can be have names of another checkpoint.

    All names get or lose one and the same prefix; what torch puts into the names of what it has wrapped
    (`_orig_mod.` of a compiled module) does not count; and LayerNorm's `gamma` and `beta` become `weight` and
    `bias`, or the other way round. A tensor that the other checkpoint does not have keeps its name.

    Args:
        names: of the tensors.
        known: names of the other checkpoint.

    Example:
        >>> rename(["LayerNorm.gamma", "w"], {"bert.LayerNorm.weight", "bert.w"})
        {'bert.LayerNorm.weight': 'LayerNorm.gamma', 'bert.w': 'w'}
    """
    plain, plainly_known = ({unwrapped(name): name for name in x} for x in (names, known))
    if len(plain) < len(names) or len(plainly_known) < len(known):  # two names must not become one
        return _renamed(names, set(known))
    return {
        plainly_known.get(new, plain[old] if new == old else new): plain[old]
        for new, old in _renamed(plain, set(plainly_known)).items()
    }


def unwrapped(name: str) -> str:
    """Return the name of a tensor without what torch puts into it where it has wrapped a module.

    Example:
        >>> unwrapped("_orig_mod.layers.0._fsdp_wrapped_module.weight")
        'layers.0.weight'
    """
    return _WRAPPERS.sub("", name)


def _renamed(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    removed = [("", "")] + [("", prefix) for prefix in _prefixes(names)]
    best: dict[str, str] = {}
    most = -1
    for added, taken in [*removed, *((prefix, "") for prefix in _prefixes(known))]:
        renamed = {_other_form(name, added, taken, known): name for name in names}
        common = len(renamed.keys() & known)
        if len(renamed) == len(names) and common > most:  # two names must not become one
            best, most = renamed, common
    return best


def _other_form(name: str, added: str, taken: str, known: Collection[str]) -> str:
    """Return a name with a prefix added or taken away, and as it was or is now called, if that is known."""
    new = added + name.removeprefix(taken)
    before, _, last = new.rpartition(".")
    for form in (new, f"{before}.{_OLD_NAMES.get(last)}"):
        if form in known and (form == new or "norm" in _module(new).lower()):
            return form
    return name if added else new


def _prefixes(names: Collection[str]) -> list[str]:
    return sorted({name.split(".", 1)[0] + "." for name in names if "." in name})
