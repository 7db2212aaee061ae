"""Files of weights that stay mapped while they are read more than once: in every pass, for digests."""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

from saft.files.tensorfile import TensorHeader, view

__all__ = ["in_mapped", "mapped_files"]

_MOST = 32 * 2**30
"""Bytes of all files: the system keeps a 512th of them in memory, to know where the pages are."""


def mapped_files(files: Iterable[Path]) -> dict[Path, mmap.mmap]:
    """Map files as a whole, if they are not too large together.

    A page that one reader has met, another need not look for: that takes as long as the sum of what is in it.
    The system drops the pages when it needs room, as it does with those of any file.

    Args:
        files: of weights, none of them empty.

    Returns:
        File -> its bytes, which stay mapped until nobody holds them; empty where they are too large.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "abc"
        >>> _ = file.write_text("abc")
        >>> mapped_files([file])[file][:]
        b'abc'
    """
    once = list(dict.fromkeys(files))
    if sum(file.stat().st_size for file in once) > _MOST:
        return {}
    try:
        return {file: _mapped(file) for file in once}
    except OSError:  # a system that promises no more memory than it has: tensor by tensor then
        return {}


def in_mapped(
    headers: Mapping[str, TensorHeader], mapped: Mapping[Path, mmap.mmap]
) -> dict[str, TensorHeader]:
    """Return headers whose tensors lie in what is mapped, where their file is; the others as they are.

    Args:
        headers: name -> what the file says of the tensor.
        mapped: from `mapped_files`.
    """

    def placed(header: TensorHeader) -> TensorHeader:
        content = mapped.get(header.file)
        if content is None or header.stored is not None or header.offsets[0] % header.dtype.itemsize:
            return header  # a tensor that is not aligned is copied, when it is read
        return dataclasses.replace(header, stored=view(header, content))

    return {name: placed(header) for name, header in headers.items()}


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)  # see `view`
