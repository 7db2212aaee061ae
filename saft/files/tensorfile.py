"""Files of tensors: headers by themselves, tensors as views of their file, and files written header first.

Safetensors are read and written; torch's pickles are read, through torch's loader of weights only.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from saft.errors import UserError, first_line, is_for_memory
from saft.files.plain_tensors import not_plain
from saft.files.write_behind import WriteBehind

__all__ = ["Layout", "TensorHeader", "TensorWriter", "file_order", "read_headers", "view"]

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Name -> (dtype, shape) of every tensor that will be written."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_AS_SAFETENSORS = (
    "save it again as safetensors: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
)
_NOT_READ = "which is not read here; save it in another dtype, such as float32"
_LENGTH_BYTES = 8  # the file begins with the header's length, a little-endian 64-bit integer
_LONGEST_HEADER = 100_000_000  # the format's own limit
_LARGEST = 2**63 - 1  # that torch counts to


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of one tensor.

    Args:
        dtype: of the stored numbers.
        shape: of the tensor.
        file: the file that holds it.
        offsets: first byte, and the byte after the last, counted from the beginning of the file; in a pickle
            from that of its first tensor. Tensors of equal dtype, shape and offsets are one.
        stored: the tensor itself, where reading the headers has mapped it (in a pickle).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    offsets: tuple[int, int]
    stored: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.offsets[1] - self.offsets[0]


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Return what `file` says of its tensors, without reading any of them.

    Args:
        file: a safetensors file, or a pickle of a state dict (`.bin`).

    Returns:
        Name -> header, in the order of the file.

    Raises:
        UserError: the file is cut off, is of another format, holds a dtype that torch does not have, or more
            than weights.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if prefix == b"version ":
            raise UserError(f"{file}: a git-lfs pointer, not the weights; fetch them with: git lfs pull")
        if file.suffix == ".bin":
            return _pickled_headers(file)
        if len(prefix) < _LENGTH_BYTES or length > _LONGEST_HEADER:
            raise UserError(f"{file}: is not a safetensors file ({size} bytes); copy or download it again")
        if size < _LENGTH_BYTES + length:
            raise UserError(_cut_off(file, size, _LENGTH_BYTES + length))
        text = stream.read(length)
    try:
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        headers = {
            name: _header(file, name, entry, _LENGTH_BYTES + length)
            for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        }
        end = _end(headers, _LENGTH_BYTES + length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: is not a safetensors file: its header does not read as one ({error})"
        ) from error
    if size < end:
        raise UserError(_cut_off(file, size, end))
    if size > end:
        raise UserError(
            f"{file}: {size} bytes, where its header promises {end}: one of the two is of another file; copy "
            "or download it again"
        )
    return headers


def _end(headers: Mapping[str, TensorHeader], start: int) -> int:
    """Return where the last tensor ends; each begins where the one before it ends, as the format has it.

    Raises:
        ValueError: two overlap, or there is a gap, as where a name stands twice and the last of them counts.
    """
    for name, header in headers.items():
        if header.offsets[0] != start:
            raise ValueError(f"'{name}' does not begin where the tensor before it ends")
        start = header.offsets[1]
    return start


def _header(file: Path, name: str, entry: Mapping[str, Any], start: int) -> TensorHeader:
    if entry["dtype"] not in _DTYPES:
        raise UserError(f"{file}: '{name}' is stored as {entry['dtype']}, {_NOT_READ}")
    first, last = entry["data_offsets"]
    header = TensorHeader(_DTYPES[entry["dtype"]], tuple(entry["shape"]), file, (start + first, start + last))
    whole = all(type(count) is int and count >= 0 for count in (*header.shape, first, last))
    sound = whole and math.prod(max(length, 1) for length in header.shape) <= _LARGEST
    if not sound or header.nbytes != header.count * header.dtype.itemsize:
        raise ValueError(f"'{name}' has {header.nbytes} bytes, which does not fit its shape {entry['shape']}")
    return header


def _cut_off(file: Path, size: int, promised: int) -> str:
    return f"{file}: cut off: {size} bytes, where its header promises {promised}; copy or download it again"


def _pickled_headers(file: Path) -> dict[str, TensorHeader]:
    try:
        # Tensors are mapped, not read. Only weights are loaded, so nothing in the file is run.
        tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message advises to load it anyway.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({refused[1]})" if refused else ""
        raise UserError(
            f"{file}: holds more than weights{named}, and is not loaded, because it could run code; "
            f"{_AS_SAFETENSORS}"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:  # of a file that is cut off, any of them
        if is_for_memory(error):
            raise
        if "mmap can only be used" in str(error):
            raise UserError(
                f"{file}: was written by torch before 1.6, or is damaged; {_AS_SAFETENSORS}"
            ) from error
        raise UserError(
            f"{file}: is damaged, or is not a file of torch ({first_line(error)}); copy or download it again"
        ) from error
    whole = isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(item, Tensor) for name, item in tensors.items()
    )
    if not whole:
        raise UserError(f"{file}: is not a state dict, a mapping of names to tensors; {_AS_SAFETENSORS}")
    for name, tensor in tensors.items():
        if problem := not_plain(tensor):
            raise UserError(f"{file}: '{name}' {problem}")
        if tensor.dtype not in _CODES:
            raise UserError(f"{file}: '{name}' is {str(tensor.dtype).removeprefix('torch.')}, {_NOT_READ}")
    first = min((tensor.data_ptr() for tensor in tensors.values() if tensor.numel()), default=0)
    headers = {}
    for name, tensor in tensors.items():
        start = tensor.data_ptr() - first if tensor.numel() else 0
        place = (start, start + tensor.nbytes)
        headers[name] = TensorHeader(tensor.dtype, tuple(tensor.shape), file, place, tensor.detach())
    return headers


def view(header: TensorHeader, content: mmap.mmap | None = None) -> Tensor:
    """Return the tensor as a view of its file: bytes are read when they are used, and dropped under pressure.

    Writing to the result changes not the file, nor another view that is not of the same `content`.

    Args:
        header: of the tensor.
        content: the whole file, where it is mapped already.

    Returns:
        A tensor of the header's dtype and shape.
    """
    if header.stored is not None:
        return header.stored
    if header.nbytes == 0:
        return torch.empty(header.shape, dtype=header.dtype)
    start, stop = header.offsets
    page = 0
    if content is None:
        page = start - start % mmap.ALLOCATIONGRANULARITY
        with header.file.open("rb") as stream:
            # Copy on write: torch asks for a writable buffer, and the file must not change.
            content = mmap.mmap(stream.fileno(), stop - page, access=mmap.ACCESS_COPY, offset=page)
    flat = torch.frombuffer(content, dtype=torch.uint8, count=stop - start, offset=start - page)
    if (start - page) % header.dtype.itemsize:
        flat = flat.clone()  # other writers may pack tensors without alignment
    return flat.view(header.dtype).view(header.shape)


def file_order(layout: Layout) -> list[str]:
    """Return the names in the order in which they are written.

    Wide dtypes come first, so that every tensor is aligned without padding, which the format forbids.
    """
    return sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))


class TensorWriter:
    """Writes a safetensors file whose header comes first and whose tensors follow as they are made.

    Args:
        file: to be written.
        layout: name -> (dtype, shape) of every tensor; those without elements need not be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> with TensorWriter(file, {"bias": (torch.float32, (2,))}) as writer:
        ...     writer.write("bias", torch.tensor([1.0, 2.0]))
        >>> view(read_headers(file)["bias"])
        tensor([1., 2.])
    """

    def __init__(self, file: Path, layout: Layout) -> None:
        self.file = file
        self.names = file_order(layout)
        self._layout = layout
        self._missing = deque(name for name in self.names if math.prod(layout[name][1]))
        self._elements = 0  # of the first that is missing, those that are there
        self._stream: BinaryIO | None = None

    def __enter__(self) -> TensorWriter:
        header: dict[str, Any] = {
            "__metadata__": {"format": "pt"}
        }  # older transformers refuse a file without it
        position = 0
        for name in self.names:
            dtype, shape = self._layout[name]
            end = position + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH_BYTES)
        self._stream = self.file.open("wb")
        self._behind = WriteBehind(self._stream)
        self._stream.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor as a whole; the order is that of `names`.

        Raises:
            ValueError: it has another shape or dtype than was declared, or its turn is not now.
        """
        shape = self._layout[name][1]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{self.file}: '{name}' is {tuple(tensor.shape)}, not {shape}")
        self.append(name, tensor)

    def append(self, name: str, part: Tensor) -> None:
        """Write the next elements of a tensor, in any shape; the order of the tensors is that of `names`.

        Raises:
            ValueError: they are of another dtype, too many, or of a tensor whose turn is not now.
        """
        dtype, shape = self._layout[name]
        there, count = self._elements + part.numel(), math.prod(shape)
        if count and (self._stream is None or not self._missing or name != self._missing[0]):
            raise ValueError(f"{self.file}: '{name}' is written out of order")
        if part.dtype != dtype or there > count > 0:
            raise ValueError(
                f"{self.file}: '{name}' is {part.dtype} with {there} elements, not {dtype} with {count}"
            )
        if part.numel() == 0 or self._stream is None:
            return
        own = (part if part.device.type == "cpu" else part.cpu()).detach()
        flat = own.resolve_conj().resolve_neg().contiguous().view(-1)
        self._stream.write(flat.view(torch.uint8).numpy().data)
        self._behind.wrote(flat.nbytes)
        self._elements = there % count
        if there == count:
            self._missing.popleft()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None:
            return  # of several files the one before could not be ended, or this one not be made
        with self._stream:
            self._behind.close()
        if kind is None and self._missing:
            raise ValueError(f"{self.file}: '{self._missing[0]}' was never written, or not whole")
