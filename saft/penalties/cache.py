"""What is costly at the base, kept in files by what it was made of, so that arms share it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saft.errors import UserError
from saft.files.staging import replaced

__all__ = ["cached", "digest"]


def digest(parts: Iterable[Mapping[str, Tensor]], *facts: Any) -> str:
    """Return the SHA-256 of tensors by name, and of what else decides a result, as 64 hexadecimal digits.

    Args:
        parts: name -> tensor, several times.
        *facts: anything with a repr that tells it apart.

    Example:
        >>> digest([{"a": torch.zeros(2)}], 1) == digest([{"a": torch.zeros(2)}], 1)
        True
        >>> digest([{"a": torch.zeros(2)}], 1) == digest([{"a": torch.zeros(2)}], 2)
        False
    """
    hashed = hashlib.sha256(repr(facts).encode())
    for part in parts:
        for name, tensor in sorted(part.items()):
            hashed.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            plain = tensor.detach().cpu().contiguous()
            hashed.update(plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b"")
    return hashed.hexdigest()


def cached(
    folder: Path | None,
    key: Callable[[], str],
    compute: Callable[[], dict[str, Tensor]],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return what `folder` holds under a key, computing and keeping it first if it is not there.

    Args:
        folder: where; None computes and keeps nothing.
        key: makes the name of the file; asked for only where there is a folder.
        compute: makes the tensors, of any shape, by name.
        device: where they are wanted.

    Raises:
        UserError: the file is damaged.
    """
    if folder is None:
        return compute()
    file = folder / f"{key()}.safetensors"
    if file.is_file():
        try:
            known: dict[str, Tensor] = load_file(file, str(device))
            return known
        except SafetensorError as error:
            raise UserError(f"{file}: is damaged ({error}); delete it, and it is computed again") from None
    tensors = compute()
    with replaced(file) as temporary:  # others may write the same
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    return tensors
