"""Publishing a package on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.errors import UserError, first_line


def check_repository(name: str) -> None:
    """Refuse what cannot be pushed, before an hour's work is to be.

    Raises:
        UserError: no repository can have that name, or the hub is switched off.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        what = f"is no repository's name ({first_line(error)})"
        raise UserError(what, where=name, hint="name it OWNER/NAME") from None
    if constants.HF_HUB_OFFLINE:
        raise UserError("the hub is switched off", where="HF_HUB_OFFLINE", hint="unset it to push")


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a package, as it is, into a model repository, which is made if there is none; the commit's address.

    `repository` is `owner/name`, or `name` for the owner of the token.

    Raises:
        PackageError: not a package, or altered.
        UserError: no connection, no token, or no right to write there.
    """
    # Imported here: it takes a while, and nothing else needs it.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_repository(repository)
    verify(folder, PackageManifest)
    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Package by homoexport")
    except HfHubHTTPError as error:
        what = f"the hub refused the package at {folder} ({first_line(error)})"
        raise UserError(what, where=repository, hint="`hf auth login` with a token that may write there") from None
    except Exception as error:  # of connections: its three HTTP clients, by version, have no base but this
        what = f"the package at {folder} did not reach the hub ({first_line(error)})"
        raise UserError(what, where=repository, hint="check the connection") from None
    return str(commit.commit_url)
