"""A finished folder goes to the hub; whether it may is asked before the work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saft.errors import UserError, first_line
from saft.progress import note

__all__ = ["check_upload", "uploading"]

_STALE = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")
"""What an upload takes out of a repository unless it brings a file of the name: readers would mix the two."""


def check_upload(repository: str | None) -> None:
    """Refuse an upload where there is no token that may write; nothing is made on the hub.

    Args:
        repository: OWNER/NAME on the hub; None uploads nothing.

    Raises:
        UserError: there is no token, it may only read, or the hub is out of reach.

    Example:
        >>> check_upload(None)
    """
    if repository is None:
        return
    from huggingface_hub import HfApi

    with _told(repository, "log in by `hf auth login`, or set HF_TOKEN"):
        token = HfApi().whoami().get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise UserError(
            f"upload: {repository}: the token of the hub may only read; log in by `hf auth login` with one "
            "that may write"
        )


@contextmanager
def uploading(folder: Path, repository: str | None) -> Iterator[None]:
    """Make sure that a repository of the hub can be written to, and upload `folder` when the block has ended.

    A repository that is not there is made, and is private; one that is there gets a further commit. A block
    that fails uploads nothing.

    Args:
        folder: complete once the block has ended well.
        repository: OWNER/NAME on the hub; None uploads nothing.

    Raises:
        UserError: the repository cannot be written to, before the block; or the upload failed, after it.

    Example:
        >>> with uploading(Path("runs/merged"), None):
        ...     pass
    """
    if repository is None:
        yield
        return
    from huggingface_hub import HfApi

    check_upload(repository)
    hub = HfApi()
    with _told(repository, "its owner has to let you write there"):
        url = hub.create_repo(repository, private=True, exist_ok=True)
        if "write" in inspect.signature(hub.auth_check).parameters:  # an older library cannot ask
            hub.auth_check(repository, write=True)  # where the repository was there, nobody has asked yet
    yield
    with _told(repository, f"{folder} is complete; upload it by `hf upload {repository} {folder}`"):
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Upload {folder.name} by saft",
            delete_patterns=list(_STALE),
        )
    note(f"uploaded to {url}")


@contextmanager
def _told(repository: str, cure: str) -> Iterator[None]:
    """Turn what the hub or the network says inside into one line."""
    try:
        yield
    except Exception as error:  # the hub's, the network's, and those of the library below
        # Further sentences are cures, of which there is one.
        reason = first_line(error).partition(". ")[0].rstrip(".:")
        raise UserError(f"upload: {repository}: {reason}; {cure}") from error
