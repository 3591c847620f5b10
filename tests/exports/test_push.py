"""Uploading to the Hub: asked for by name, private at first, and never at the cost of the export."""

import pytest

from stepwell.errors import StepwellError
from stepwell.exports import folder as folders, hub as pushing
from stepwell.exports.hub import upload


class Hub:
    """Takes the place of HfApi and notes what it is asked."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, name, **options):
        self.calls.append((name, options))

    def upload_folder(self, **options):
        if self.error:
            raise self.error
        self.calls.append(("upload", options))
        return "https://hub/me/model/commit/1"


def test_a_repository_is_made_private_and_the_folder_is_one_commit(tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(pushing, "HfApi", lambda: hub)
    assert upload(tmp_path, "me/model") == "https://hub/me/model/commit/1"
    (made, uploaded) = hub.calls
    assert made == ("me/model", {"private": True, "exist_ok": True})
    assert uploaded[1]["repo_id"] == "me/model" and uploaded[1]["folder_path"] == tmp_path


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("not logged in")])
def test_a_failed_upload_says_where_the_export_is(error, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "HfApi", lambda: Hub(error))
    with pytest.raises(StepwellError, match=rf"{tmp_path} is exported.*{error}.*hf auth login"):
        upload(tmp_path, "me/model")


def test_export_pushes_what_it_wrote(tiny_model, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(pushing, "HfApi", lambda: hub)
    target, _ = folders.export(str(tiny_model), ["safetensors"], tmp_path / "out", push="me/model")
    assert hub.calls[1][1]["folder_path"] == target and (target / "README.md").is_file()
