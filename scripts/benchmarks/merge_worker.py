"""One merge in one process: imports first, then only the merge by the clock; a line of JSON says how long.

It imports neither saft nor mergekit before it knows which is to merge.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PIECE = 1 << 20  # bytes that are read, and written, at a time


def saft(
    method: str, models: list[str], out: str, threads: int, device: str, shard_size: str | None, check: bool
) -> Callable[[], object]:
    """Merge as `saft merge` does, with the method's defaults; or check, and say what that says."""
    import torch

    from saft.merge import MergeConfig, merge
    from saft.merging.methods import METHODS

    METHODS.get(method)  # imports the methods
    torch.set_num_threads(threads)
    config = MergeConfig(method, models[0], models[1:], device=device, shard_size=shard_size)
    if device != "cpu":
        torch.zeros(1, device=device)  # starts CUDA, which takes a second

    def run() -> dict[str, float] | None:
        result = merge(config, out, check_only=check)
        if not check:
            return None
        assert result.seconds is not None
        return {"promised_seconds": result.seconds, "promised_private": result.plan.memory}

    return run


def mergekit(method: dict[str, Any], models: list[str], out: str, threads: int) -> Callable[[], object]:
    """Merge as `mergekit-yaml` does by default, but for the tokenizer, which the models do not have."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    parameters = method.pop("of_each", {})
    entries = [{"model": model, "parameters": {"weight": 1.0, **parameters}} for model in models[1:]]
    base = {"base_model": models[0]} if method["merge_method"] != "linear" else {}
    config = MergeConfiguration.model_validate({**method, **base, "models": entries})
    options = MergeOptions(copy_tokenizer=False, quiet=True, num_threads=threads)
    options.apply_global_options()
    return lambda: run_merge(config, out, options)


def copy(method: str, models: list[str], out: str, threads: int) -> Callable[[], object]:
    """Read the weights of every model, and write those of the first: one thread, piece by piece."""
    files = [file for model in models for file in sorted(Path(model).glob("*.safetensors"))]

    def run() -> None:
        Path(out).mkdir()
        piece = memoryview(bytearray(_PIECE))
        for file in files:
            with file.open("rb", buffering=0) as stream:
                target = Path(out, file.name) if str(file.parent) == models[0] else Path(os.devnull)
                with target.open("wb", buffering=0) as written:
                    while count := stream.readinto(piece):
                        written.write(piece[:count])
                    if target.is_file():
                        os.fsync(written.fileno())  # as saft does

    return run


def main() -> None:
    # Whatever a library prints must not be taken for the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    request = json.loads(sys.argv[1])
    run = {"saft": saft, "mergekit": mergekit, "copy": copy}[request.pop("tool")](**request)
    before = time.perf_counter()
    more = run()
    taken = {"seconds": time.perf_counter() - before}
    print(json.dumps(taken | more if isinstance(more, dict) else taken), file=answer, flush=True)


if __name__ == "__main__":
    main()
