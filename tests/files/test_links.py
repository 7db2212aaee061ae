"""Nothing is read through a name or a link that leads out of a folder."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.files import checkpoint
from saft.files.links import inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname"])
def test_a_name_that_leads_out_is_refused(folder, name):
    with pytest.raises(UserError, match="leads out of its folder"):
        inside(folder, name)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", checkpoint.tensor_headers),
        ("model.safetensors.index.json", checkpoint.tensor_headers),
        ("config.json", checkpoint.model_config),
        ("saft.json", checkpoint.read_manifest),
    ],
)
def test_a_link_that_leads_out_is_refused_wherever_a_folder_is_read(folder, name, read):
    (folder / name).symlink_to(folder.parent / "secret")
    with pytest.raises(UserError, match="leads out of its folder"):
        read(folder)


def test_links_within_the_folder_and_of_the_whole_folder_are_followed(folder):
    (folder / "a.json").write_text("{}")
    (folder / "b.json").symlink_to("a.json")
    (folder.parent / "alias").symlink_to(folder)
    assert inside(folder.parent / "alias", "b.json").read_text() == "{}"


def test_the_hubs_cache_keeps_its_files_as_links_to_blobs(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f1e", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text('{"model_type": "x"}')
    (tmp_path / "elsewhere").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1234")
    assert checkpoint.model_config(snapshot) == {"model_type": "x"}
    (snapshot / "saft.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out"):
        checkpoint.read_manifest(snapshot)


def test_a_link_to_itself_is_no_card(folder):
    (folder / "README.md").symlink_to("README.md")
    assert checkpoint.read_card(folder) == {}
