"""One competitor in one process: it takes steps when it is told to, and answers with what it measured.

A line of JSON on standard input is a request, a line on standard output the answer; see `Worker`.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from sam_competitors import COMPETITORS
from sam_models import workload
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import saft


class Stopwatch:
    """Adds up times, on a CUDA device those of the device, which is not waited for until they are read."""

    def __init__(self, on_cuda: bool) -> None:
        self._on_cuda = on_cuda
        self._starts: list[Any] = []
        self._stops: list[Any] = []

    def clear(self) -> None:
        self._starts, self._stops = [], []

    def start(self, *_: Any) -> None:
        self._starts.append(self._now())

    def stop(self, *_: Any) -> None:
        self._stops.append(self._now())

    @property
    def seconds(self) -> float:
        """The sum from each start to its stop; on a CUDA device, synchronize before."""
        pairs = zip(self._starts, self._stops, strict=True)
        if self._on_cuda:
            return sum(start.elapsed_time(stop) / 1000 for start, stop in pairs)
        return sum(stop - start for start, stop in pairs)

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Worker:
    """A competitor with its model, ready to take steps.

    Args:
        competitor: a name of `COMPETITORS`.
        model: a name of `MODELS`.
        device: "cpu", "cuda" or "cuda:1".
        threads: of the CPU.
        batch: its size; None for the model's own.
    """

    def __init__(self, competitor: str, model: str, device: str, threads: int, batch: int | None) -> None:
        torch.set_num_threads(threads)
        self.device = device
        self.work = workload(model, device, batch)
        self.optimizer, self._step = COMPETITORS[competitor].build(self.work.model)
        base: Any = getattr(self.optimizer, "base", getattr(self.optimizer, "base_optimizer", self.optimizer))
        self._base = Stopwatch(self._on_cuda)
        base.register_step_pre_hook(self._base.start)
        base.register_step_post_hook(self._base.stop)
        self._passes = Stopwatch(self._on_cuda)
        self._bytes_at_start = _resident_bytes()

    def versions(self) -> dict[str, Any]:
        """Say what runs where."""
        packages = {name: _version(name) for name in ("torch", "transformers", "pytorch_optimizer")}
        packages["saft"] = saft.__version__
        return {
            "device": torch.cuda.get_device_name(self.device) if self._on_cuda else _processor(),
            "python": platform.python_version(),
            **packages,
            "n_parameters": sum(p.numel() for p in self.work.model.parameters()),
            "batch_shapes": {key: list(value.shape) for key, value in self.work.batch.items()},
        }

    def round(self, warm: int, steps: int) -> dict[str, Any]:
        """Take some steps unmeasured and then some measured; leave no gradient behind.

        Returns:
            Seconds of each step, of its forward and backward passes, and of the base optimizer's part.
        """
        for _ in range(warm):
            self._take_step()
        seconds: dict[str, list[float]] = {"total": [], "passes": [], "base": []}
        for _ in range(steps):
            self._synchronize()
            self._base.clear()
            self._passes.clear()
            start = time.perf_counter()
            self._take_step()
            self._synchronize()
            seconds["total"].append(time.perf_counter() - start)
            seconds["passes"].append(self._passes.seconds)
            seconds["base"].append(self._base.seconds)
        self.optimizer.zero_grad()
        if self._on_cuda:
            torch.cuda.empty_cache()  # the competitors share the device's memory
        return seconds

    def memory(self) -> dict[str, Any]:
        """Take steps in a process that has done nothing else; return by how much they raised the peak."""
        if self._on_cuda:
            self.round(0, 2)
            torch.cuda.reset_peak_memory_stats(self.device)
        self.round(0, 3)
        if self._on_cuda:
            return {"peak_bytes": torch.cuda.max_memory_allocated(self.device)}
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_bytes": peak - self._bytes_at_start}

    def checkpoint(self) -> dict[str, Any]:
        """Return the size of the optimizer's checkpoint after some steps."""
        self.round(0, 2)
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        return {"checkpoint_bytes": file.tell()}

    def waits(self) -> dict[str, Any]:
        """Count the times that the host waits for a CUDA device in one step; None on a CPU."""
        if not self._on_cuda:
            return {"host_waits": None}
        self.round(2, 0)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._take_step()
        torch.cuda.set_sync_debug_mode("default")
        return {"host_waits": sum("synchronizing" in str(warning.message) for warning in caught)}

    def reductions(self) -> dict[str, Any]:
        """Count how often a step reduces the gradient among replicas, and with a first pass of each alone."""
        with _process_group(self.device):
            model: Any = DistributedDataParallel(self.work.model)
            buckets: list[int] = []
            model.register_comm_hook(None, _counting_hook(buckets))
            counts = []
            for alone in (contextlib.nullcontext, model.no_sync):
                for _ in range(2):  # the buckets are laid again after the first
                    buckets.clear()
                    self._step(lambda: self.work.backward(model), alone)
                counts.append(buckets.count(0))
        return {"reductions": counts[0], "reductions_alone": counts[1]}

    @property
    def _on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def _take_step(self) -> None:
        self._step(self._backward, contextlib.nullcontext)

    def _backward(self) -> None:
        self._passes.start()
        self.work.backward()
        self._passes.stop()

    def _synchronize(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize(self.device)


def _counting_hook(buckets: list[int]) -> Callable[..., Any]:
    # Annotated by hand: DDP looks at the types themselves, not at their names.
    def hook(_: Any, bucket: Any) -> Any:
        buckets.append(bucket.index())
        reduced = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return reduced.then(lambda future: future.value()[0])

    hook.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    return hook


@contextlib.contextmanager
def _process_group(device: str) -> Iterator[None]:
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _resident_bytes() -> int:
    """Return the memory in use by this process now; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as fields:
        return int(fields.read().split()[1]) * resource.getpagesize()
    return 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    # Whatever a library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
