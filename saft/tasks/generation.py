"""What a model of tokens says after a text: the likeliest token each time, whatever else is in the batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from saft.tasks.language_model import LanguageModel

__all__ = ["generate"]

PROBE = 4  # tokens of a text by which a model is asked whether it answers in batches
ALIKE = 0.01  # of the logits' spread: what another text beside may change of them, by round-off
Inputs = Mapping[str, Tensor]


def generate(
    model: LanguageModel, inputs: Inputs, tokens: int, tokenizer: Any, ends: Iterable[int] = ()
) -> list[list[int]]:
    """Return what follows each input: the likeliest token each time, until one that ends a text.

    Args:
        model: in evaluation mode.
        inputs: input_ids and attention_mask, [batch, tokens]; of a causal model padded on the left. A model
            that takes padding for text, as RWKV and XLNet do, is asked for one text after the other.
        tokens: at most this many are generated.
        tokenizer: the model's.
        ends: further tokens that end a text.
    """
    trunk: Any = model.trunk
    own = trunk.generation_config
    of_model = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    stop = {token for token in (tokenizer.eos_token_id, *of_model, *ends) if token is not None}
    plain = transformers.GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted(stop) or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=getattr(trunk.config, "decoder_start_token_id", None),  # as it was learned
        use_cache=_caches(trunk, inputs),
    )
    device = next(trunk.parameters()).device
    on_device = {name: value.to(device) for name, value in inputs.items()}
    rows: list[list[int]] = []
    trunk.generation_config = plain  # what the folder's own asks for, such as sampling, is not wanted here
    try:
        for part in _parts(model, on_device, plain):
            if trunk.config.is_encoder_decoder and not plain.use_cache:
                produced = _by_whole_passes(trunk, part, plain)
            else:
                produced = trunk.generate(**part, generation_config=plain)
            given = 1 if trunk.config.is_encoder_decoder else part["input_ids"].shape[1]
            for row in produced[:, given:].tolist():
                rows.append(list(itertools.takewhile(lambda token: token not in stop, row)))
    finally:
        trunk.generation_config = own
    return rows


def _caches(trunk: Any, inputs: Inputs) -> bool:
    """Return whether a model may keep what it has made of the tokens before, instead of reading all again.

    RecurrentGemma goes on from the text before, whose states are a part of it, where a text is one token.
    """
    goes_on = getattr(trunk, "_is_stateful", False) and int(inputs["attention_mask"].sum(1).min()) == 1
    return getattr(trunk.forward, "gives_cache", True) and not goes_on


def _parts(model: LanguageModel, inputs: Inputs, settings: Any) -> Iterator[Inputs]:
    """Yield the rows that a model may be asked for together: all, or each without its padding."""
    mask = inputs["attention_mask"]
    if len(mask) > 1 and not model.trunk.config.is_encoder_decoder:  # type: ignore[union-attr]
        lengths = mask.sum(1).tolist()
        if model.answers_in_batches is None:
            row = inputs["input_ids"][0, -min(lengths[0], PROBE) :]
            model.answers_in_batches = _answers_in_batches(model.trunk, row, settings)
        if not model.answers_in_batches:
            for place, length in enumerate(lengths):
                yield {name: value[place : place + 1, -length:] for name, value in inputs.items()}
            return
    yield inputs


def _answers_in_batches(trunk: Any, row: Tensor, settings: Any) -> bool:
    """Return whether a model goes on with a text alone as it does beside another, padded on the left."""
    two = {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    asking = transformers.GenerationConfig(**settings.to_diff_dict() | two)
    ids = torch.stack([torch.cat([torch.full_like(row, settings.pad_token_id), row]), torch.cat([row, row])])
    mask = torch.ones_like(ids)
    mask[0, : len(row)] = 0
    with torch.autocast(row.device.type, enabled=False):  # whose round-off is not small
        beside = trunk.generate(input_ids=ids, attention_mask=mask, generation_config=asking).logits
        alone = trunk.generate(
            input_ids=row[None], attention_mask=torch.ones_like(row[None]), generation_config=asking
        ).logits
    pairs = zip(beside, alone, strict=False)  # which of the two ends after the first token is of no matter
    return all(bool((both[0] - own[0]).abs().max() <= ALIKE * own.std()) for both, own in pairs)


def _by_whole_passes(trunk: Any, inputs: Inputs, settings: Any) -> Tensor:
    """Return greedy answers, [batch, tokens], by an encoder-decoder whose encoder cannot be run by itself."""
    rows = len(inputs["input_ids"])
    produced = inputs["input_ids"].new_full((rows, 1), settings.decoder_start_token_id)
    has_ended = torch.zeros(rows, dtype=torch.bool, device=produced.device)
    ends = produced.new_tensor(settings.eos_token_id or [])
    while produced.shape[1] <= settings.max_new_tokens and not has_ended.all():
        logits = trunk(**inputs, decoder_input_ids=produced, use_cache=False).logits
        likeliest = logits[:, -1].argmax(-1)
        has_ended |= torch.isin(likeliest, ends)
        produced = torch.cat([produced, likeliest.unsqueeze(1)], 1)
    return produced
