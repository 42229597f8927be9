"""The result in a repository of a model hub, by huggingface_hub: created private, one commit with all files, nothing sent twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # public by its docs, not re-exported

from finetune_trainer.storage_errors import StorageError, StorageRefused
from finetune_trainer.storage_hub import translated

CARD_KEY: Final = "finetune_operator"
"""Where the model card's front matter says which job the model is of."""
_TOKEN: Final = "put a token that may write there as HF_TOKEN into the Secret of credentials.model"  # noqa: S105 - a remedy
_GIT_FILES: Final = frozenset({".gitattributes", ".gitignore"})
_WEIGHTS: Final = (".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".bin.index.json")
"""Of a model that was there before these must go: loaders would mix them with ours. Other files stay."""
_TRUE: Final = frozenset({"1", "on", "yes", "true"})


class HubRepository:
    """The repository org/name that output.hub names."""

    def __init__(self, name: str, *, endpoint: str | None = None, token: str | None = None) -> None:
        self.name = name
        self._api = HfApi(endpoint=endpoint, token=token)

    def owner(self) -> str | None:
        """Return the uid of the job whose model is there, "" when it is not a job's, None when nothing is."""
        with self._told():
            try:
                info = self._api.model_info(self.name)
            except RepositoryNotFoundError:
                return None
            if not {file.rfilename for file in info.siblings or ()} - _GIT_FILES:
                return None
            ours = info.card_data.get(CARD_KEY) if info.card_data is not None else None
        return str(ours.get("uid", "")) if isinstance(ours, dict) else ""

    def check_writable(self) -> None:
        """Raise when the token may not write to the repository; a fine-grained one must name it, or its owner. Nothing is created."""
        with self._told():
            account = self._api.whoami()
        token = account.get("auth", {}).get("accessToken", {})
        role = token.get("role")
        if role == "read":
            raise StorageRefused(self._place, "the token may only read", _TOKEN)
        owner = self.name.split("/")[0]
        if role == "fineGrained":
            if not any(self._covers(scope) for scope in token.get("fineGrained", {}).get("scoped", ())):
                raise StorageRefused(self._place, "the fine-grained token has no repo.write for it", _TOKEN)
            return
        groups = {group.get("name"): group.get("roleInOrg") for group in account.get("orgs", ())}
        if owner != account.get("name") and groups.get(owner, "read") == "read":
            said = f"the token is {account.get('name')}'s, who may not write to {owner}"
            raise StorageRefused(self._place, said, "choose another output.hub, or use a token of that organisation")

    def push(self, folder: Path, names: Sequence[str], message: str, description: str) -> str:
        """Create the repository where it is missing (private), commit the named files of a folder, and return the commit."""
        disable_progress_bars()
        with _online(), self._told():
            self._api.create_repo(self.name, private=True, exist_ok=True)
            stale = [
                file.rfilename
                for file in self._api.model_info(self.name).siblings or ()
                if file.rfilename.endswith(_WEIGHTS) and file.rfilename not in names
            ]
            # Not upload_folder: since huggingface_hub 1.33 it makes several commits of a large folder, and half a model would be there.
            commit = self._api.create_commit(
                self.name,
                [
                    *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names),
                    *(CommitOperationDelete(path_in_repo=name) for name in stale),
                ],
                commit_message=message,
                commit_description=description,
            )
        return str(commit.oid)

    @property
    def _place(self) -> str:
        return f"hf://{self.name}"

    def _covers(self, scope: dict[str, Any]) -> bool:
        named = scope.get("entity", {}).get("name")
        return named in (self.name, self.name.split("/")[0]) and "repo.write" in scope.get("permissions", ())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: a file's upload failed
            raise translated(error, self._place) from None


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """Let huggingface_hub talk again, unless the environment forbids it: publish has gone offline when all its inputs were local."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
