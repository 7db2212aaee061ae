from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from saft.errors import UserError
from saft.files.tensorfile import TensorWriter, read_headers, view

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 4)])
def test_what_safetensors_wrote_is_viewed_bit_for_bit(tmp_path, dtype, shape):
    tensor = torch.randn(shape).mul(8).to(dtype)
    safetensors.torch.save_file({"before": torch.ones(3, dtype=torch.int8), "w": tensor}, tmp_path / "f")
    found = view(read_headers(tmp_path / "f")["w"])
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert found.float().equal(tensor.float())


def test_a_view_is_private(tmp_path):
    safetensors.torch.save_file({"w": torch.zeros(5000)}, tmp_path / "f")
    header = read_headers(tmp_path / "f")["w"]
    before = (tmp_path / "f").read_bytes()
    view(header).fill_(1.0)
    assert (tmp_path / "f").read_bytes() == before
    assert view(header).eq(0).all()


def test_tensors_that_are_not_aligned_are_read(tmp_path):
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(entries).encode()
    data = b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert view(read_headers(tmp_path / "f")["b"]).tolist() == [1.5, -2.0]


def test_tensors_that_overlap_or_leave_a_gap_are_refused(tmp_path):
    one = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    for other in (
        '"b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}',
        one.replace("[0, 4]", "[4, 8]"),
    ):
        header = f"{{{one}, {other}}}".encode()  # a name that stands twice is read once
        (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(UserError, match="does not begin where the tensor before it ends"):
            read_headers(tmp_path / "f")
    header = f"{{{one}}}".encode()
    (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(UserError, match=r"f: \d+ bytes, where its header promises \d+: one of the two is of"):
        read_headers(tmp_path / "f")


@pytest.mark.parametrize("place", [[0.0, 16.0], [False, 16], ["0", "16"], [0], 16])
def test_a_place_that_is_none_is_refused(tmp_path, place):
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": place}}).encode()
    (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(UserError, match="its header does not read as one"):
        read_headers(tmp_path / "f")


def test_a_shape_that_torch_cannot_have_is_refused(tmp_path):
    for shape in ([2**40, 2**40, 0], [True, 0]):
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(UserError, match="its header does not read as one"):
            read_headers(tmp_path / "f")


def test_a_header_that_is_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "f").write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5)
    with pytest.raises(UserError, match="its header does not read as one"):
        read_headers(tmp_path / "f")


@pytest.mark.parametrize("shape", [[-2, -2], [4.0], ["4"], 4, None])
def test_a_shape_that_is_none_is_refused(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}
    header = json.dumps({"w": entry}).encode()
    (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(UserError, match="f: is not a safetensors file: its header does not read as one"):
        read_headers(tmp_path / "f")


def test_the_header_is_written_first_and_every_tensor_is_aligned(tmp_path):
    tensors = {
        "a": torch.ones(3, dtype=torch.bool),
        "b": torch.ones(3).half(),
        "c": torch.ones(3),
        "é": torch.ones(1),
    }
    writer = TensorWriter(tmp_path / "f", {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()})
    with writer:
        for name in writer.names:
            writer.write(name, tensors[name])
    assert safetensors.torch.load_file(tmp_path / "f").keys() == tensors.keys()
    for header in read_headers(tmp_path / "f").values():
        assert header.offsets[0] % header.dtype.itemsize == 0


def test_a_writer_refuses_what_its_header_does_not_say(tmp_path):
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}
    with pytest.raises(ValueError, match="never written"), TensorWriter(tmp_path / "f", layout) as writer:
        writer.write("a", torch.zeros(2))
    with pytest.raises(ValueError, match="out of order"), TensorWriter(tmp_path / "f", layout) as writer:
        writer.write("b", torch.zeros(2))
    with pytest.raises(ValueError, match="not"), TensorWriter(tmp_path / "f", layout) as writer:
        writer.write("a", torch.zeros(2).double())
    layout = {"a": (torch.float32, (2,))}
    with (
        pytest.raises(ValueError, match="'a' was never written, or not whole"),
        TensorWriter(tmp_path / "f", layout) as writer,
    ):
        writer.append("a", torch.zeros(1))
    with pytest.raises(ValueError, match="3 elements, not"), TensorWriter(tmp_path / "f", layout) as writer:
        writer.append("a", torch.zeros(3))
    with (
        pytest.raises(ValueError, match=r"\(1, 2\), not \(2,\)"),
        TensorWriter(tmp_path / "f", layout) as writer,
    ):
        writer.write("a", torch.zeros(1, 2))


def test_a_tensor_may_come_in_pieces_and_an_empty_one_not_at_all(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    layout = {"a": (torch.float32, (3, 4)), "nothing": (torch.float32, (0, 4)), "z": (torch.float32, ())}
    with TensorWriter(tmp_path / "f", layout) as writer:
        for part in (whole[0], whole[1, :1], whole.view(-1)[5:]):
            writer.append("a", part)
        writer.append("z", torch.tensor(7.0))
    found = safetensors.torch.load_file(tmp_path / "f")
    assert found["a"].equal(whole)
    assert found["nothing"].shape == (0, 4)
    assert found["z"] == 7


def test_numbers_that_are_conjugated_or_negated_when_they_are_read_are_written_so(tmp_path):
    lazily = torch.tensor([1 + 2j, 3 - 4j]).conj()
    tensors = {"conjugated": lazily, "negated": lazily.imag}
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(tmp_path / "f", layout) as writer:
        for name in writer.names:
            writer.write(name, tensors[name])
    found = safetensors.torch.load_file(tmp_path / "f")
    assert found["conjugated"].tolist() == [1 - 2j, 3 + 4j]
    assert found["negated"].tolist() == [-2.0, 4.0]
