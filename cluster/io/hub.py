"""A dataset repository of the Hugging Face Hub as the target of an export. Only this file imports the hub's client."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.cluster.contract.errors import JobError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
_URI = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)/?")
_OURS = frozenset({".gitattributes"})
"""Files that the hub itself puts into a new repository."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A dataset repository of the hub."""

    id: str
    """`owner/name`."""
    public: bool = False
    """Whether anybody may read it."""

    def require_free(self) -> None:
        """Refuse a repository that is not empty, or that is public although the export must be private.

        Raises:
            JobError: for such a repository, without a token, or if the hub does not answer.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._in_words():
            try:
                info = _api(self.id).dataset_info(self.id)
            except RepositoryNotFoundError:
                return
        if {file.rfilename for file in info.siblings or ()} - _OURS:
            raise JobError(
                f"{SCHEME}datasets/{self.id}: is not empty, must be absent or empty; name another repository"
            )
        if not info.private and not self.public:
            raise JobError(f"{SCHEME}datasets/{self.id}: is public, must be private; make it so, or add --public")

    def upload(self, folder: Path, message: str) -> None:
        """Make the repository if it is absent, and put all files of a folder into it, in one commit.

        Raises:
            JobError: if the hub refuses or does not answer.
        """
        with self._in_words():
            api = _api(self.id)
            api.create_repo(self.id, repo_type="dataset", private=not self.public, exist_ok=True)
            api.upload_folder(repo_id=self.id, repo_type="dataset", folder_path=folder, commit_message=message)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it brings

        try:
            yield
        except (HTTPError, OSError, ValueError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            advice = "check the name, the token and the network"
            raise JobError(f"{SCHEME}datasets/{self.id}: cannot be written ({said}); {advice}") from error


def repo_of(uri: str, *, public: bool) -> HubRepo:
    """Return the repository that a URI names.

    Raises:
        JobError: if the URI names no repository of datasets, or if the client is not installed.
    """
    found = _URI.fullmatch(uri)
    if not found:
        raise JobError(f"{uri}: is no repository of datasets, must be {SCHEME}datasets/OWNER/NAME; name one")
    if find_spec("huggingface_hub") is None:
        raise JobError(f"{uri}: needs huggingface-hub, which is not installed; install it")
    return HubRepo(found[1], public)


def _api(repo: str) -> "HfApi":
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise JobError(
            f"{SCHEME}datasets/{repo}: no token of the hub is set, must be one that may write; "
            "log in with `hf auth login`, or set HF_TOKEN"
        )
    return HfApi(token=token, library_name="gristmill")
