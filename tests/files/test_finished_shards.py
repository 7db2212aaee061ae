from __future__ import annotations

from saft.files.finished_shards import FinishedShards


def test_a_note_is_kept_beside_the_shards(tmp_path):
    shards = FinishedShards(tmp_path)
    assert (shards.owner, shards.names) == (None, ())
    shards.add("unknown")  # nobody has begun
    assert shards.names == ()
    shards.begin("me")
    for name in ("b", "a"):
        (tmp_path / name).write_text("")
        shards.add(name)
    assert (shards.owner, shards.names) == ("me", ("b", "a"))
    shards.forget()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_all_but_the_finished_is_cleared(tmp_path):
    shards = FinishedShards(tmp_path)
    shards.begin("me")
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "heads" / "inner").mkdir(parents=True)
    for name in ("one", "two", "2_Dense/one", "2_Dense/two", "heads/inner/x"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    shards.add("one")
    shards.add("2_Dense/one")
    shards.clear_the_rest()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left - {".saft-shards.json"} == {"one", "2_Dense", "2_Dense/one"}


def test_a_damaged_note_is_none(tmp_path):
    shards = FinishedShards(tmp_path)
    shards.begin("me")
    (note,) = tmp_path.iterdir()
    note.write_text("{")
    assert (shards.owner, shards.names) == (None, ())
