"""What the workers of `scripts/bench memory-merge` share: the clock, and the memory beyond what there was."""

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

__all__ = ["answering", "measured"]


def measured(run: Callable[[], Any], device: str) -> tuple[Any, dict[str, Any]]:
    """Return what a merge gives, its seconds, and its greatest memory beyond what there was before.

    On a GPU that is the memory there, and else the resident memory of this process.
    """
    on_gpu = device != "cpu"
    gc.collect()
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError, AttributeError):  # what was freed in loading would be used again, and not seen
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the greatest so far, begins anew
    before = torch.cuda.memory_allocated(device) if on_gpu else _status("VmRSS")
    begun = time.perf_counter()
    result = run()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    greatest = torch.cuda.max_memory_allocated(device) if on_gpu else _status("VmHWM")
    beyond = None if before is None or greatest is None else greatest - before
    return result, {"seconds": seconds, "beyond": beyond}


def answering(merge: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Answer the request of the command line by a line of JSON, whatever a library prints."""
    answer, sys.stdout = sys.stdout, sys.stderr
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    if request["device"] != "cpu":
        torch.zeros(1, device=request["device"])  # starts CUDA, which takes a second
    print(json.dumps(merge(request)), file=answer, flush=True)


def _status(name: str) -> int | None:
    """Return a figure of this process in bytes; None where there is no /proc."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)
    return None
