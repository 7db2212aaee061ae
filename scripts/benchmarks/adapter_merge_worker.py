"""One merge of the adapters of a peft model in one process: only the merge is measured.

A line of JSON says how long it took, and how much memory it took beyond that of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from measured_memory import answering, measured
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

MERGED = "merged"


def load(request: Mapping[str, Any]) -> PeftModel:
    """Return the base with adapters of random weights, the same in every process."""
    base = AutoModelForCausalLM.from_pretrained(request["folder"]).to(request["device"])
    settings = LoraConfig(
        r=request["rank"],
        lora_alpha=2 * request["rank"],
        target_modules=request["targets"],
        init_lora_weights=False,
    )
    model = get_peft_model(base, settings, "1")
    for name in range(2, request["adapters"] + 1):
        model.add_adapter(str(name), settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, factor in model.named_parameters():
            if ".lora_" in name:
                factor.copy_(torch.randn(factor.shape, generator=generator) * 0.02)
    return model


def saft(model: PeftModel, adapters: list[str], method: Mapping[str, Any]) -> Callable[[], object]:
    """Merge by saft.integrations.peft."""
    from saft.integrations.peft import merge_adapters

    return lambda: merge_adapters(model, adapters=adapters, name=MERGED, **method)


def peft(model: PeftModel, adapters: list[str], method: Mapping[str, Any]) -> Callable[[], object]:
    """Merge by peft's own function."""
    return lambda: model.add_weighted_adapter(adapters, [1.0] * len(adapters), MERGED, **method)


def changes(model: PeftModel) -> dict[str, Tensor]:
    """Return what the merged adapter adds to each matrix."""
    return {
        name: module.get_delta_weight(MERGED).detach().cpu().contiguous()
        for name, module in model.named_modules()
        if MERGED in getattr(module, "lora_A", ())
    }


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, write the merged change to a file, and return what it took."""
    model = load(request)
    adapters = [str(name) for name in range(1, request["adapters"] + 1)]
    tool = {"saft": saft, "peft": peft}[request["tool"]]
    _, figures = measured(tool(model, adapters, request["parameters"]), request["device"])
    save_file(changes(model), request["out"])
    return figures


if __name__ == "__main__":
    answering(merge)
