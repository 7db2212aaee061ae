from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from saft.errors import UserError
from saft.files import staging


def test_a_staged_folder_appears_complete(tmp_path):
    target = tmp_path / "new" / "model"
    with staging.staged(target) as folder:
        (folder / "heads").mkdir()
        (folder / "heads" / "a").write_text("1")
        assert folder.parent == target.parent
        assert not target.exists()
    assert (target / "heads" / "a").read_text() == "1"
    assert [entry.name for entry in target.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path, error):
    target = tmp_path / "model"

    def write():
        with staging.staged(target) as folder:
            (folder / "half").write_text("1")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_non_empty_target_is_refused_and_untouched(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("1")
    with pytest.raises(UserError, match="--overwrite"), staging.staged(tmp_path / "model"):
        pytest.fail("the block must not run")
    assert (tmp_path / "model" / "precious").read_text() == "1"


def test_an_empty_target_is_taken(tmp_path):
    (tmp_path / "model").mkdir()
    with staging.staged(tmp_path / "model") as folder:
        (folder / "new").write_text("1")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["new"]


def test_overwrite_leaves_no_stale_file_and_keeps_the_old_folder_on_failure(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("1")
    with pytest.raises(RuntimeError), staging.staged(target, overwrite=True):
        raise RuntimeError
    assert (target / "config.json").read_text() == "1"
    with staging.staged(target, overwrite=True) as folder:
        (folder / "new").write_text("1")
    assert [file.name for file in target.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_holds_the_work_is_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "config.json").touch()
    monkeypatch.chdir(tmp_path / "here")
    for target in (tmp_path, Path("."), Path(".."), Path("/"), Path("../here/..")):
        (tmp_path / "here" / "config.json").touch()
        with pytest.raises(UserError, match="more than a checkpoint"):
            staging.refuse(target, overwrite=True)
    with (
        pytest.raises(UserError, match="more than a checkpoint"),
        staging.staged(tmp_path, overwrite=True),
    ):
        pytest.fail("the block must not run")


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("1")
    with pytest.raises(UserError, match=r"papers: holds no model .* is not replaced; empty it first"):
        staging.refuse(tmp_path / "papers", overwrite=True)
    (tmp_path / "papers" / "adapter.safetensors").touch()
    staging.refuse(tmp_path / "papers", overwrite=True)


def test_a_file_as_target_is_refused(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(UserError, match="is a file"), staging.staged(tmp_path / "model", overwrite=True):
        pytest.fail("the block must not run")


@pytest.mark.skipif(os.name != "posix", reason="devices")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_device_or_a_pipe_is_never_replaced(tmp_path, overwrite):
    """/dev/null became a folder: it is there, but `is_file` says no."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is a file; give the name of a folder"):
        staging.refuse(tmp_path / "pipe", overwrite)
    with pytest.raises(UserError, match="pipe: is a device or a pipe, and is not replaced"):
        staging.refuse_file(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a file"):
        staging.refuse(Path("/dev/null"), overwrite)
    with pytest.raises(UserError, match="/dev/null: is a device or a pipe"):
        staging.refuse_file(Path("/dev/null"))


def test_a_target_that_was_filled_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "model"

    def write():
        with staging.staged(target):
            target.mkdir()
            (target / "other").write_text("1")

    with pytest.raises(UserError, match="not empty"):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_that_the_user_wants(tmp_path, umask):
    before = os.umask(umask)
    try:
        with staging.staged(tmp_path / "model") as folder:
            os.close(os.open(folder / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "private").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


WRITER = """
import sys, time
from saft.files.staging import replaced, staged, write_text
with staged(sys.argv[1]) as folder:
    for index in range(int(sys.argv[2])):
        (folder / f"{index:04}").write_bytes(b"0" * 4096)
    print("written", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_writer_leaves_nothing_and_the_next_one_cleans_up(tmp_path):
    target = tmp_path / "model"
    for count in ("0", "1", "300"):
        command = [sys.executable, "-c", WRITER, str(target), count]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"written\n"
            writer.kill()
        assert not target.exists()
        assert len(list(tmp_path.iterdir())) == 1
    with staging.staged(target) as folder:
        (folder / "complete").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"], "leftovers of the killed are gone"
    assert [entry.name for entry in target.iterdir()] == ["complete"]


OVERWRITER = """
import os, signal, sys
from pathlib import Path
from saft.files import staging

CALLS = {"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir"}
target = Path(sys.argv[1])
if sys.argv[2] == "two steps":
    staging._swapped = lambda one, other: False
for moment in range(10**6):
    with staging.staged(target, overwrite=True) as folder:
        (folder / "old.safetensors").touch()
    child = os.fork()
    if child == 0:
        seen = 0
        def kill(event, arguments):
            global seen
            seen += event in CALLS
            if seen > moment:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        with staging.staged(target, overwrite=True) as folder:
            (folder / "new.safetensors").touch()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    there = target.exists()
    try:
        with staging.staged(target):
            pass
    except staging.UserError:
        print(there, *(file.name for file in target.iterdir()), *os.listdir(target.parent))
    else:
        print("lost")
    if status == 0:
        break
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("steps", ["one step", "two steps"])
def test_killed_at_any_call_the_old_folder_is_there_or_the_new(tmp_path, steps):
    command = [sys.executable, "-c", OVERWRITER, str(tmp_path / "model"), steps]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {tuple(line.split()) for line in printed.splitlines()}
    old, new = "old.safetensors", "new.safetensors"
    both = {("True", old, "model"), ("True", new, "model")}
    # Where names cannot be exchanged the target is gone for a moment; the next writer gives it back.
    assert found - {("False", old, "model")} == both
    if steps == "one step" and sys.platform == "linux":
        assert found == both


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path, monkeypatch, overwrite):
    (tmp_path / "file").touch()
    for target in ("file/model", "file/new/model"):
        with pytest.raises(UserError, match=r"model: cannot be made, since .*file is a file"):
            staging.refuse(tmp_path / target, overwrite)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with (
        pytest.raises(UserError, match="may not be written to; choose another folder"),
        staging.staged(tmp_path / "new" / "model", overwrite),
    ):
        pytest.fail("the block must not run")


def test_a_disk_that_becomes_full_is_told_and_nothing_is_left(tmp_path):
    def write(number):
        with staging.staged(tmp_path / "model") as folder:
            (folder / "half").touch()
            raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match="model: could not be written: No space left on device"):
        write(errno.ENOSPC)
    with pytest.raises(FileNotFoundError):  # any other error is not the disk's
        write(errno.ENOENT)

    def write_file():
        with staging.replaced(tmp_path / "a.json") as temporary:
            temporary.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` does, without the file's name

    with pytest.raises(UserError, match=r"a\.json: could not be written: No space left on device"):
        write_file()

    def write_within():
        with staging.staged(tmp_path / "model") as folder, staging.replaced(folder / "note"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"/model: could not be written"):  # not a name that nobody knows
        write_within()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of files")
def test_a_disk_that_becomes_full_under_the_library_safetensors_is_told(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        full = pytest.raises(UserError, match=r"a\.safetensors: could not be written: File too large")
        with full, staging.replaced(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.zeros(1000)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SafetensorError), staging.replaced(tmp_path / "a.safetensors"):
        load(b"no")  # any other mistake is not the disk's


@pytest.mark.skipif(os.name != "posix", reason="processes")
def test_the_folder_of_a_living_writer_is_left_alone(tmp_path):
    with staging.staged(tmp_path / "model") as first:
        (first / "slow").touch()
        with staging.staged(tmp_path / "model") as second:
            (second / "fast").touch()
            assert (first / "slow").exists()
        (tmp_path / "model" / "fast").unlink()
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["slow"]


def test_the_folder_that_one_is_in_is_not_replaced_though_it_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the folder that you are in"), staging.staged("."):
        pass
    (tmp_path / "new").mkdir()
    with staging.staged("new") as folder:
        (folder / "a").touch()
    assert (tmp_path / "new" / "a").exists()


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, file = tmp_path / "best.yaml", tmp_path / "elsewhere" / "a.yaml"
    link.symlink_to("elsewhere/a.yaml")
    for text in ("new", "newer"):  # the first leads nowhere yet
        staging.write_text(link, text)
        assert link.is_symlink()
        assert file.read_text() == text
    assert [entry.name for entry in file.parent.iterdir()] == ["a.yaml"]


def test_a_file_is_complete_or_what_it_was(tmp_path):
    file = tmp_path / "new" / "figures.json"
    staging.write_text(file, "old\n")

    def write():
        with staging.replaced(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in file.parent.iterdir()] == ["figures.json"]
    assert file.read_bytes() == b"old\n"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """A worker that was taken for dead, and comes back, writes the file that another is writing: the first
    to end took the other's half for its own, and the second found nothing to rename."""
    file = tmp_path / "figures.json"
    with staging.replaced(file) as first:
        first.write_text("first, and longer")
        with staging.replaced(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first, and longer"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name != "posix", reason="processes")
@pytest.mark.parametrize("name", ["figures.json", "n" * 240 + ".json"])
def test_what_a_killed_writer_of_a_file_has_left_goes_with_the_next(tmp_path, name):
    with staging.replaced(tmp_path / name) as temporary:
        mark = temporary.name.removesuffix(temporary.name[-8:])
        left = tmp_path / mark.replace(f"-{os.getpid()}-", f"-{os.getpid()}-1")  # of an earlier process
        left.write_text("half")
        temporary.write_text("1")
    staging.write_text(tmp_path / name, "2")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    staging.refuse_file(tmp_path / "file")
    staging.refuse_file(tmp_path / "new" / "figures.json")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        staging.refuse_file(tmp_path)
    with pytest.raises(UserError, match="file is a file; choose another folder"):
        staging.refuse_file(tmp_path / "file" / "figures.json")
