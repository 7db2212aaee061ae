from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from saft import config
from saft.errors import UserError
from saft.tasks.image_source import ImageSource, pictures
from tests.tasks.tiny_vision import LABELS, images


def source(**keys: Any) -> ImageSource:
    return config.parse(ImageSource, keys, "data")


def read(found: dict[str, Any], split: str = "train") -> list[tuple[list[list[int]], str]]:
    return [(np.asarray(picture.rgb("t").convert("L")).tolist(), label) for picture, label in found[split]]


def expected(count: int, names: bool = False) -> list[tuple[list[list[int]], str]]:
    pixels, labels = images(count, 0)
    return [
        (image.tolist(), LABELS[str(label)] if names else str(label))
        for image, label in zip(pixels, labels, strict=True)
    ]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_a_file_for_validation_is_not_left_unread_in_silence() -> None:
    with pytest.raises(UserError, match=r"files\.val: nothing would be read of it"):
        source(path="npz", files={"train": "a.npz", "test": "b.npz", "val": "c.npz"})


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(zipped: bool, tmp_path: Path) -> None:
    pixels, labels = images(6, 0)
    for name, array in (("images", pixels), ("labels", labels.astype(np.uint8))):
        content = idx(array)
        (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    given = source(
        path="idx",
        files={"train": str(tmp_path / "images")},
        label_files={"train": str(tmp_path / "labels")},
        test=None,
    )
    assert read(pictures(given, "t")) == expected(6)
    assert sorted(given.local_files("t")) == [str(tmp_path / "images"), str(tmp_path / "labels")]
    assert given.distrusted() is None


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz(channels: int | None, tmp_path: Path) -> None:
    pixels, labels = images(6, 0)
    if channels:
        pixels = np.repeat(pixels[..., None], channels, -1)
    np.savez(tmp_path / "a.npz", picture=pixels, digit=labels)
    given = source(
        path="npz", files={"train": str(tmp_path / "a.npz")}, image="picture", label="digit", test=None
    )
    assert read(pictures(given, "t")) == expected(6)


def test_a_folder_of_folders(tmp_path: Path) -> None:
    pixels, labels = images(6, 0)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "train" / LABELS[str(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    (tmp_path / "train" / "dark" / "notes.txt").write_text("no image")
    given = source(path="folder", files={"train": str(tmp_path / "train")}, test=None)
    assert sorted(read(pictures(given, "t"))) == sorted(expected(6, names=True))
    assert len(given.local_files("t")) == 6


def test_what_is_left_out_of_a_folder_of_folders_is_told_and_a_link_to_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = tmp_path / "cat" / ".ipynb_checkpoints"
    hidden.mkdir(parents=True)
    for file in (tmp_path / "cat" / "1.png", hidden / "1-checkpoint.png", tmp_path / "beside.png"):
        Image.new("RGB", (4, 4)).save(file)
    (tmp_path / "cat" / "2.heic").write_bytes(b"")
    given = source(path="folder", files={"train": str(tmp_path)}, test=None)
    [(picture, label)] = pictures(given, "t")["train"]
    assert (picture.place, label) == (f"{tmp_path}/cat/1.png", "cat")
    assert f"2 file(s) are not read, such as {tmp_path}/beside.png; an image is" in capsys.readouterr().err

    (tmp_path / "cat" / "3.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"cat/3\.png: is not an image that can be read: .*No such file"):
        pictures(given, "t")["train"][1][0].rgb("t")


@pytest.mark.parametrize("form", ["parquet of images", "csv of paths"])
def test_a_column(form: str, tmp_path: Path) -> None:
    pixels, labels = images(6, 0)
    if form == "csv of paths":
        rows = ["image,label"]
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            Image.fromarray(image).save(tmp_path / f"{number}.png")
            rows.append(f"{number}.png,{LABELS[str(label)]}")
        (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
        given = source(path="csv", files={"train": str(tmp_path / "a.csv")}, test=None)
    else:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS.values()))}
        )
        columns = {"image": [Image.fromarray(image) for image in pixels], "label": labels.tolist()}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
        given = source(path="parquet", files={"train": str(tmp_path / "a.parquet")}, test=None)
    found = pictures(given, "t")
    assert read(found) == expected(6, names=True)
    assert found["train"][1][0].place.startswith("row 2 of the train split of /")


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    def message(**keys: Any) -> str:
        with pytest.raises(UserError) as caught:
            pictures(source(**{"test": None} | keys), "t")
        return str(caught.value)

    (tmp_path / "a").write_bytes(b"GIF89a")
    (tmp_path / "short").write_bytes(idx(np.zeros((2, 3, 3), np.uint8))[:-1])
    np.savez(tmp_path / "floats.npz", image=np.zeros((2, 3, 3)), label=[0, 1])
    np.savez(tmp_path / "few.npz", image=np.zeros((2, 3, 3), np.uint8), label=[0])
    np.savez(tmp_path / "objects.npz", image=np.array([{}, {}]), label=[0, 1])
    np.savez(tmp_path / "latin.npz", image=np.zeros((2, 3, 3), np.uint8), label=[b"caf\xe9", b"tea"])
    names = ("a", "short", "floats.npz", "few.npz", "objects.npz", "latin.npz")
    files = {name: str(tmp_path / name) for name in names}
    a = {"train": files["a"]}
    assert "files: is required with path: folder" in message(path="folder")
    assert "label_files: must have the splits of files" in message(path="idx", files=a)
    assert "there is no split 'trian'; did you mean 'train'?" in message(path="npz", files=a, train="trian")
    assert "is not an IDX file: it does not begin" in message(path="idx", files=a, label_files=a)
    short = {"train": files["short"]}
    assert (
        "short: is not an IDX file: it has 33 bytes, but says that it holds [2, 3, 3], which makes 34; "
        in message(path="idx", files=short, label_files=short)
    )
    assert "is not an npz file" in message(path="npz", files=a)
    latin = {"train": files["latin.npz"]}
    assert "labels are bytes, but no UTF-8; write texts" in message(path="npz", files=latin)
    assert "there is no array 'imgae'; did you mean 'image'?" in message(
        path="npz", files={"train": files["few.npz"]}, image="imgae"
    )
    floats = message(path="npz", files={"train": files["floats.npz"]})
    assert "images must be bytes" in floats
    assert "write whole numbers from 0 to 255 as numpy.uint8, channels last" in floats
    assert "there are 2 images, but labels [1]" in message(path="npz", files={"train": files["few.npz"]})
    assert "cannot be read" in message(path="npz", files={"train": files["objects.npz"]})  # which are pickled
    assert "has no folder with images in it" in message(path="folder", files={"train": str(tmp_path)})
    assert "there is no 'nowhere/'" in message(path="folder", files={"train": "nowhere/"})


def test_postscript_which_pil_reads_by_a_program_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "x" / "a" / "b.eps")
    (tmp_path / "x" / "a" / "b.eps").rename(tmp_path / "x" / "a" / "b.png")
    found = pictures(source(path="folder", files={"train": str(tmp_path / "x")}, test=None), "t")
    with pytest.raises(UserError, match=r"t.data: .*b.png: is not an image that can be read"):
        found["train"][0][0].rgb("t")


def test_a_file_that_is_no_image_and_a_label_that_is_one_are_told(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": b"no image", "path": None}], "label": ["a"]}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=False))
    rows.to_parquet(tmp_path / "a.parquet")
    given = {"path": "parquet", "files": {"train": str(tmp_path / "a.parquet")}, "test": None}
    [(picture, _)] = pictures(source(**given), "t")["train"]
    with pytest.raises(
        UserError,
        match=r"row 1 of the train split of .*a\.parquet: is not an image .*: it is none of PNG, JPEG",
    ):
        picture.rgb("t")
    with pytest.raises(UserError, match=r"data\.label: the column 'image' holds images, not labels"):
        pictures(source(**given, label="image"), "t")


def numbered(folder: Path, labels: list[Any]) -> dict[str, Any]:
    rows = {"image": [{"bytes": b"", "path": None}] * len(labels), "label": labels}
    datasets.Dataset.from_dict(rows).to_parquet(folder / "a.parquet")
    files = {"train": str(folder / "a.parquet")}
    return pictures(source(path="parquet", files=files, test=None, numbered=True), "t")


@pytest.mark.parametrize(("labels", "shown"), [(["0", "cat"], "'cat'"), ([0.0, 1.5], r"1\.5")])
def test_labels_that_are_no_numbers_are_told_where_numbers_are_meant(
    labels: list[Any], shown: str, tmp_path: Path
) -> None:
    message = (
        rf"^t\.data\.numbered: row 2 of the train split of .*a\.parquet has the label {shown}, which is no"
    )
    with pytest.raises(UserError, match=f"{message} whole number; set numbered: false$"):
        numbered(tmp_path, labels)


def test_whole_numbers_of_any_type_are_numbers(tmp_path: Path) -> None:
    for labels in ([0, 2], [0.0, 2.0], ["0", "2"]):
        assert [label for _, label in numbered(tmp_path, labels)["train"]] == ["0", "2"]
    with pytest.raises(UserError, match=r"1 row\(s\) have no label, the first is row 2 of"):
        numbered(tmp_path, [0, -1])  # as the hub's test splits have it


def test_images_of_a_table_without_files_are_told_apart_by_their_split(tmp_path: Path) -> None:
    """Decoded images are kept by their place: those of the test must not be taken for those of training."""
    for split, seed in (("train", 0), ("test", 1)):
        pixels, labels = images(6, seed)
        columns = {"image": [Image.fromarray(image) for image in pixels], "label": labels.tolist()}
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        (tmp_path / "owner").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(
            tmp_path / "owner" / f"{split}.parquet"
        )
    found = pictures(source(path=str(tmp_path / "owner")), "t")
    places = [picture.place for part in found.values() for picture, _ in part]
    assert len(set(places)) == len(places) == 12


def test_a_row_without_an_image_is_told_or_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [np.zeros((4, 4), dtype=np.uint8), None, np.ones((4, 4), dtype=np.uint8)]
    datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=kinds).to_parquet(str(file))
    given = {"path": "parquet", "files": {"train": str(file)}, "test": None}
    with pytest.raises(UserError, match=r"t.data.image: 1 row\(s\) have no image, the first is row 2 of the"):
        pictures(source(**given), "t")
    assert len(pictures(source(**given, drop_missing=True), "t")["train"]) == 2


@pytest.mark.parametrize(
    ("cell", "message"),
    [([[0.5, 0.25]], "its values go from 0.25 to 0.5, but must be whole"), ([1.0, 2.0], "its shape is")],
)
def test_a_column_of_numbers_that_are_no_image_is_told(cell: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"image": [cell], "label": [0]}).to_parquet(str(file))
    given = source(path="parquet", files={"train": str(file)}, test=None)
    [(picture, _)] = pictures(given, "t")["train"]
    with pytest.raises(UserError, match=rf"t.data: row 1 of the train split of .*: .*{message}"):
        picture.rgb("t")


def test_a_folder_of_splits_is_told_with_their_names(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / split / "cat" / "1.png")
    given = source(path="folder", files={"train": str(tmp_path)}, test=None)
    names = f"files: {{train: {tmp_path}/train, test: {tmp_path}/test}}"
    with pytest.raises(UserError, match=f"holds splits, not labels: name each of them, such as {names}"):
        pictures(given, "t")


def test_hidden_files_of_a_folder_are_no_images(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / "cat" / name)
    found = pictures(source(path="folder", files={"train": str(tmp_path)}, test=None), "t")
    assert len(found["train"]) == 1


def test_labels_of_arrays_are_texts_as_those_of_columns(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    for labels, texts in (([True, False], ["true", "false"]), ([b"cat", b"dog"], ["cat", "dog"])):
        np.savez(tmp_path / "a.npz", image=pixels, label=np.array(labels))
        given = source(path="npz", files={"train": str(tmp_path / "a.npz")}, test=None)
        assert [label for _, label in pictures(given, "t")["train"]] == texts
    np.savez(tmp_path / "a.npz", image=pixels[:, :0], label=np.array([0, 1]))
    with pytest.raises(UserError, match=r"images must be bytes, .*, but are uint8 \[2, 0, 4\]"):
        pictures(given, "t")


@pytest.mark.parametrize("missing", [["cat", ""], [1.0, float("nan")]])
def test_a_label_of_an_array_that_is_missing_is_told_or_left_out(missing: list[Any], tmp_path: Path) -> None:
    file = str(tmp_path / "a.npz")
    np.savez(file, image=np.zeros((2, 4, 4), dtype=np.uint8), label=np.array(missing))
    keys = {"path": "npz", "files": {"train": file}, "test": None}
    with pytest.raises(UserError) as caught:
        pictures(source(**keys), "t")
    assert str(caught.value) == (
        f"t.data.label: 1 row(s) have no label, the first is {file}, row 2; fix the file, or leave them out by "
        "drop_missing: true"
    )
    [(_, label)] = pictures(source(**keys, drop_missing=True), "t")["train"]
    assert label == str(missing[0])


def test_an_array_without_images_is_told_as_such(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((0, 4, 4), dtype=np.uint8), label=np.zeros(0, dtype=int))
    with pytest.raises(UserError, match=r"a\.npz: holds no images"):
        pictures(source(path="npz", files={"train": str(tmp_path / "a.npz")}, test=None), "t")
