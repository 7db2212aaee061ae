"""One merge of models in memory in one process: they are loaded first, then only the merge is measured.

A line of JSON says how long it took, and how much memory it took beyond that of the models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from measured_memory import answering, measured
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

Models = Mapping[str, SentenceTransformer]  # the base, if the method takes one, is called `base`
Parameters = Mapping[str, Any]


def saft(models: Models, method: str, parameters: Parameters) -> Callable[[], nn.Module]:
    """Merge as a file of mergekit's asks for, so that the numbers are comparable."""
    from saft import merge_models
    from saft.merging.mergekit import file

    given = {"merge_method": method, "parameters": dict(parameters)}
    given["models"] = [{"model": name} for name in models if name != "base"]
    if "base" in models:
        given["base_model"] = "base"
    settings, _ = file.read(given, "scripts/bench memory-merge")
    base, others = models[settings.base], [models[name] for name in settings.by_task().values()]
    return lambda: merge_models(base, others, settings.method, parameters=settings.parameters)


def mergekit(models: Models, method: str, parameters: Parameters) -> Callable[[], Mapping[str, Tensor]]:
    """Merge by mergekit's function for models in memory."""
    from mergekit.merge_methods import merge_state_dicts

    base = "base" if "base" in models else None

    def run() -> Mapping[str, Tensor]:
        with torch.no_grad():
            return merge_state_dicts(models, method, base=base, parameters=parameters, dtype=torch.float32)

    return run


def sentence_transformers(models: Models, method: str, parameters: Parameters) -> Callable[[], nn.Module]:
    """Merge by the method of sentence-transformers, which calls mergekit."""
    import mergekit.merge_methods  # noqa: F401 (it is imported before the clock starts, as by the others)

    others = [model for name, model in models.items() if name != "base"]
    base = models.get("base")
    return lambda: SentenceTransformer.merge(others, method, base_model=base, parameters=dict(parameters))


TOOLS: dict[str, Callable[[Models, str, Parameters], Callable[[], Any]]] = {
    "saft": saft,
    "mergekit": mergekit,
    "sentence-transformers": sentence_transformers,
}


def load(folder: str, device: str) -> SentenceTransformer:
    """Return a model whose weights are in memory of its own, not mapped from the file."""
    (kind,) = json.loads(Path(folder, "config.json").read_text())["architectures"]
    model = getattr(transformers, kind).from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return SentenceTransformer(modules=[model.to(device)], device=device)


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, write the result to a file, and return what it took."""
    models = {name: load(folder, request["device"]) for name, folder in request["models"].items()}
    run = TOOLS[request["tool"]](models, request["method"], request["parameters"])
    merged, figures = measured(run, request["device"])
    state = merged.state_dict() if isinstance(merged, nn.Module) else merged
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, request["out"])
    return figures


if __name__ == "__main__":
    answering(merge)
