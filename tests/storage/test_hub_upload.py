"""Results committed to a hub by huggingface_hub's own client, against a hub in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from finetune_trainer.publish.hub import HubRepository
from finetune_trainer.storage_errors import StorageRefused, StorageUnavailable
from finetune_trainer.testing_hub_uploads import UploadHub, serve_uploads

# httpx's warning about how huggingface_hub sends a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = "---\nfinetune_operator:\n  uid: uid-1\n---\n# bot\n"
NAMES = ("README.md", "adapter/adapter_config.json", "model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", True
    )  # its protocol needs the hub's own store: files go by LFS
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve_uploads() as served:
        yield served


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    for name, text in zip(NAMES, (CARD, "{}", "weights" * 1000), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "not-published.bin").write_text("x")
    return tmp_path


def repository(hub: UploadHub, name: str = "team/bot") -> HubRepository:
    return HubRepository(name, endpoint=hub.endpoint, token="hf_test")


def push(hub: UploadHub, result: Path) -> str:
    return repository(hub).push(result, NAMES, "bot: step 8", "Fine-tuned from org/base at c0ffee.")


def test_a_result_is_one_commit_in_a_private_repository(hub: UploadHub, result: Path) -> None:
    assert repository(hub).owner() is None
    commit = push(hub, result)
    assert commit == f"{1:040x}"
    assert hub.private == {"team/bot": True}
    assert {name: content.decode() for name, content in hub.files("team/bot").items() if name in NAMES} == {
        name: (result / name).read_text() for name in NAMES
    }
    assert "not-published.bin" not in hub.files("team/bot")
    assert hub.commits == [{"summary": "bot: step 8", "description": "Fine-tuned from org/base at c0ffee."}]
    assert repository(hub).owner() == "uid-1"


def test_pushing_again_makes_no_commit_and_sends_nothing(hub: UploadHub, result: Path) -> None:
    first = push(hub, result)
    assert push(hub, result) == first
    assert (len(hub.commits), hub.uploads) == (1, 1)


def test_publish_is_online_again_after_it_has_gone_offline(
    hub: UploadHub, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as go_offline does
    push(hub, result)
    assert constants.HF_HUB_OFFLINE is True


def test_a_model_that_no_job_has_put_there_is_told_apart_from_nothing(hub: UploadHub) -> None:
    hub.repositories["team/bot"] = {".gitattributes": b"", "model.safetensors": b"x"}
    hub.private["team/bot"] = False
    assert repository(hub).owner() == ""


def test_weights_of_the_model_before_it_go_and_other_files_stay(hub: UploadHub, result: Path) -> None:
    before = {"model-00002-of-00002.safetensors": b"x", "model.safetensors.index.json": b"{}", "LICENSE": b"l"}
    hub.repositories["team/bot"] = {".gitattributes": b"", **before}
    hub.private["team/bot"] = False
    push(hub, result)
    assert sorted(hub.files("team/bot")) == sorted([".gitattributes", "LICENSE", *NAMES])
    assert hub.private["team/bot"] is False


FINE = {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"name": "team"}, "permissions": ["repo.write"]}]}}
OTHER = {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"name": "team"}, "permissions": ["repo.read"]}]}}


@pytest.mark.parametrize(
    ("token", "name"), [({"role": "write"}, "team/bot"), ({"role": "write"}, "ada/bot"), (FINE, "team/bot")]
)
def test_a_token_that_may_write_is_accepted_and_nothing_is_created(
    hub: UploadHub, token: dict[str, Any], name: str
) -> None:
    hub.token = token
    repository(hub, name).check_writable()
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("token", "name", "why"),
    [
        ({"role": "read"}, "team/bot", "may only read; put a token that may write there as HF_TOKEN"),
        ({"role": "write"}, "others/bot", "the token is ada's, who may not write to others"),
        (OTHER, "team/bot", "no repo.write"),
    ],
)
def test_one_that_may_not_is_refused_with_the_remedy(
    hub: UploadHub, token: dict[str, Any], name: str, why: str
) -> None:
    hub.token = token
    with pytest.raises(StorageRefused, match=why):
        repository(hub, name).check_writable()


def test_a_hub_that_is_gone_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    gone = HubRepository("team/bot", endpoint="http://127.0.0.1:9", token="hf_test")
    with pytest.raises(StorageUnavailable):
        gone.check_writable()
