"""Several devices, each with a share of every weight (FSDP2), which is whole while its layer computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.fabric.utilities.types import _PATH
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from saft.tasks import Score
from saft.training.data_parallel import Replicas

__all__ = ["Shards", "shard", "stacks", "unshard"]


State = TypeVar("State")


class Shards(Replicas):
    """Replicas of which each holds a share of the weights, gradients and optimizer state.

    Weights begin alike in all of them: every process reads the same files. A checkpoint holds whole tensors,
    as the one of a single device.
    """

    def model_to_device(self) -> None:
        """Leave the model where it is: a device takes one layer at a time, and keeps its share."""

    def configure_ddp(self) -> None:
        """Divide the trunk."""
        assert self.lightning_module is not None
        shard(self._trunk, self.root_device.type)
        self.lightning_module.to(self.root_device)

    @property
    def _trunk(self) -> nn.Module:
        trunk: nn.Module = self.lightning_module.model.trunk  # type: ignore[union-attr, assignment]
        return trunk

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return whole tensors, on the CPU, in the first process; every process has to ask."""
        assert self.lightning_module is not None
        return _whole(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take up whole tensors, before or after the model is divided."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(own.get(name), value) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return whole tensors, on the CPU, in the first process; every process has to ask."""
        return _whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up whole tensors, and keep a share of those that have the shape of their weight."""
        super().load_optimizer_state_dict(checkpoint)
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[name] = _like(parameter, value)

    def teardown(self) -> None:
        """Leave the shares where they are; the rest is as Lightning does it."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()

    def finish(self, score: Callable[[], Score]) -> Score | None:
        """Evaluate the model by all its shares, put it together in the first process, and end the group."""
        validation = score()
        unshard(self._trunk)
        dist.destroy_process_group()
        return validation if self.is_global_zero else None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None
    ) -> None:
        """Write the checkpoint, with the whole of what the perturbation remembers.

        Args:
            checkpoint: as Lightning made it; of what is in `ascent` each process has its share.
            filepath: where the first process writes it.
            storage_options: passed on to Lightning.
        """
        whole = checkpoint | {"ascent": _whole(checkpoint["ascent"])}
        super().save_checkpoint(whole, filepath, storage_options)


def shard(trunk: nn.Module, device_type: str) -> None:
    """Divide the weights of a trunk among all processes, by layers; what is in no layer is one more.

    Args:
        trunk: changed in place.
        device_type: where the shares lie: "cuda", or "cpu".
    """
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for layer in stacks(trunk):
        fully_shard(layer, mesh=mesh)
    fully_shard(trunk, mesh=mesh)
    register_fsdp_forward_method(trunk, "generate")  # which calls an encoder by itself


def stacks(trunk: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a trunk: the members of its lists of modules, but not those of a list inside one.

    Example:
        >>> trunk = nn.Sequential(nn.Embedding(2, 1), nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]))
        >>> list(stacks(trunk))
        [Linear(in_features=1, out_features=1, bias=True), Linear(in_features=1, out_features=1, bias=True)]
    """
    for child in trunk.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from stacks(child)


def unshard(trunk: nn.Module) -> None:
    """Put whole tensors in place of the shares, on the CPU, in the first process; every process has to ask.

    The trunk is then good for saving, and not for computing.

    Args:
        trunk: that `shard` has divided; changed in place.
    """
    for module in trunk.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    whole: dict[nn.Parameter, nn.Parameter] = {}  # tied weights stay tied
    for module in trunk.modules():
        for name, share in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if isinstance(share, DTensor):
                if share not in whole:
                    whole[share] = nn.Parameter(_together(share), share.requires_grad)
                setattr(module, name, whole[share])


def _whole(state: State) -> State:
    """Return a state with its shares put together."""
    gathered: State = apply_to_collection(state, DTensor, _together)
    return gathered


def _together(share: DTensor) -> Tensor:
    """Return the whole tensor, on the CPU; an empty one but for the first process."""
    full: Tensor = share.detach().full_tensor()  # type: ignore[attr-defined]
    return full.cpu() if dist.get_rank() == 0 else full.new_empty(0, device="cpu")


def _like(own: Any, value: Tensor) -> Tensor:
    """Return a whole tensor as its own place holds it: divided, or as it is."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
