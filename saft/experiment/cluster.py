"""What a worker on a cluster is given: the options of the executors `ray` and `slurm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saft import config as configs
from saft.config import Count, CountOrZero, NonNegative, Positive

__all__ = ["RayOptions", "SlurmOptions"]


@configs.checked
@dataclass(frozen=True)
class RayOptions:
    """Where the Ray cluster is, and what each worker takes of it.

    Example:
        >>> RayOptions(gpus=0.25).address
        'auto'
    """

    address: str = "auto"
    """Address of the cluster; auto is the one that `ray start` has started or joined on this machine."""
    cpus: Count = 1
    """CPU cores of each worker, and the threads that it uses."""
    gpus: NonNegative = 0.0
    """GPUs of each worker; 0.25 puts four workers on one."""


@configs.checked
@dataclass(frozen=True)
class SlurmOptions:
    """What each worker, a task of a job array, asks Slurm for.

    Example:
        >>> SlurmOptions(partition="gpu", gpus=1).minutes
        60
    """

    partition: str | None = None
    """The partition; null is the cluster's default."""
    minutes: Count = 60
    """Time of each worker. One whose time is up gives its cell back, and another goes on with it."""
    cpus: Count = 1
    """CPU cores of each worker, and the threads that it uses."""
    gpus: CountOrZero = 0
    """GPUs of each worker."""
    memory: Positive | None = None
    """Memory of each worker, in GB; null is the cluster's default."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell before a worker starts, for example `module load python`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch by their long names: account, qos, constraint ..."""
