"""The hub is asked before the work, and gets the folder once it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils._headers import get_token_to_send

from saft.errors import UserError
from saft.files.upload import check_upload, uploading


def test_the_right_is_asked_for_before_and_the_folder_goes_up_after(
    hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with uploading(tmp_path / "out", "anna/merged"):
        assert hub.asked() == ["whoami", "create_repo", "auth_check"]
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "README.md").write_text("")
    assert hub.calls[1:3] == [
        ("create_repo", ("anna/merged", True, True)),
        ("auth_check", ("anna/merged", True)),
    ]
    what, (repository, names, more) = hub.calls[-1]
    assert (what, repository, names) == ("upload_folder", "anna/merged", ["README.md"])
    assert "*.safetensors" in more["delete_patterns"]  # else shards of an earlier upload would stay
    assert "uploaded to https://huggingface.co/anna/merged" in capsys.readouterr().err


def test_nothing_is_asked_where_nothing_is_uploaded(hub: Any, tmp_path: Path) -> None:
    check_upload(None)
    with uploading(tmp_path, None):
        pass
    assert not hub.calls


@pytest.mark.parametrize("failure", [ValueError("diverged"), KeyboardInterrupt()])
def test_work_that_fails_uploads_nothing(hub: Any, tmp_path: Path, failure: BaseException) -> None:
    def work() -> None:
        with uploading(tmp_path, "anna/merged"):
            raise failure

    with pytest.raises(type(failure)):
        work()
    assert "upload_folder" not in hub.asked()


def test_a_token_that_is_not_there_is_told_in_one_sentence(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalTokenNotFoundError) as theirs:
        get_token_to_send(True)
    hub.refuses["whoami"] = theirs.value
    with pytest.raises(UserError) as caught:
        check_upload("anna/merged")
    assert str(caught.value) == (
        "upload: anna/merged: Token is required (`token=True`), but no token found; log in by `hf auth login`, or "
        "set HF_TOKEN"
    )


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (
            "whoami",
            LocalTokenNotFoundError("Token is required.\nMore."),
            "Token is required; log in by `hf auth",
        ),
        ("whoami", ConnectionError(), "ConnectionError; log in by `hf auth"),
        (
            "create_repo",
            OSError("403: no rights to create.\nMore."),
            "403: no rights to create; its owner has to",
        ),
        ("auth_check", OSError("403 Forbidden"), "403 Forbidden; its owner has to let you write there"),
    ],
)
def test_a_hub_that_refuses_is_told_before_the_work(
    hub: Any, tmp_path: Path, call: str, error: Exception, told: str
) -> None:
    hub.refuses[call] = error
    worked = []

    def work() -> None:
        with uploading(tmp_path, "anna/merged"):
            worked.append(1)

    with pytest.raises(UserError) as caught:
        work()
    assert str(caught.value).startswith(f"upload: anna/merged: {told}")
    assert not worked


def test_a_token_that_only_reads_is_refused_and_a_check_makes_nothing(hub: Any) -> None:
    check_upload("anna/merged")
    assert hub.asked() == ["whoami"]
    hub.role = "read"
    with pytest.raises(UserError, match="upload: anna/merged: the token of the hub may only read; log in by"):
        check_upload("anna/merged")


def test_an_upload_that_fails_says_that_the_folder_is_there(hub: Any, tmp_path: Path) -> None:
    hub.refuses["upload_folder"] = ConnectionError("reset by peer")

    def work() -> None:
        with uploading(tmp_path, "anna/merged"):
            (tmp_path / "README.md").write_text("")

    with pytest.raises(UserError) as caught:
        work()
    assert str(caught.value) == (
        f"upload: anna/merged: reset by peer; {tmp_path} is complete; upload it by `hf upload anna/merged {tmp_path}`"
    )
    assert (tmp_path / "README.md").exists()
