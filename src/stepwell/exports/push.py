"""Putting an exported folder on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from stepwell.errors import StepwellError


def check_repository(name: str) -> None:
    """Refuse a name that the Hub would refuse: it has to be owner/name."""
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("it needs an owner and a name")
    except HFValidationError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise StepwellError(
            f"{name!r} can't be a repository on the Hub: {reason}. Give --push OWNER/NAME, such as me/my-retriever."
        ) from error


def upload(folder: Path, name: str) -> str:
    """Upload an exported folder; a repository that is not there yet is made, as a private one. Return where it is.

    All of it goes up, as one commit; what else the repository ``owner/name`` holds stays. The token is the one that
    ``hf auth login`` keeps.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Upload {folder.name}")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise StepwellError(
            f"{folder} is exported, but could not be pushed to {name}: {reason}. Log in with `hf auth login`, check "
            f"the connection, and upload the folder with `hf upload {name} {folder}`."
        ) from error
    return str(done)
