"""One merge of models in memory in one process: they are loaded first, then only the merge is measured.

A line of JSON says how long it took, and how much memory it took beyond that of the models.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
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


def load(folder: str) -> SentenceTransformer:
    """Return a model whose weights are in memory of its own, not mapped from the file."""
    (kind,) = json.loads(Path(folder, "config.json").read_text())["architectures"]
    model = getattr(transformers, kind).from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return SentenceTransformer(modules=[model], device="cpu")


def measured(run: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Return what a merge gives, its seconds, and its greatest memory beyond what there was before."""
    gc.collect()
    with suppress(OSError, AttributeError):  # what was freed in loading would be used again, and not seen
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the greatest so far, begins anew
    before, begun = _status("VmRSS"), time.perf_counter()
    result = run()
    seconds, greatest = time.perf_counter() - begun, _status("VmHWM")
    beyond = None if before is None or greatest is None else greatest - before
    return result, {"seconds": seconds, "beyond": beyond}


def _status(name: str) -> int | None:
    """Return a figure of this process in bytes; None where there is no /proc."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)
    return None


def main() -> None:
    # Whatever a library prints must not be taken for the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    models = {name: load(folder) for name, folder in request["models"].items()}
    merged, figures = measured(TOOLS[request["tool"]](models, request["method"], request["parameters"]))
    state = merged.state_dict() if isinstance(merged, nn.Module) else merged
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, request["out"])
    print(json.dumps(figures), file=answer, flush=True)


if __name__ == "__main__":
    main()
