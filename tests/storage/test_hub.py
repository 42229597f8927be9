import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune_trainer import storage_hub, storage_streams
from finetune_trainer.storage import StorageRefused, StorageUnavailable
from finetune_trainer.storage_hub import HubStorage, open_hub
from finetune_trainer.storage_location import parse_location
from finetune_trainer.testing_hub import COMMIT, serve_hub

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "sub/x.jsonl": b'{"a": 1}\n'}


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(storage_hub, "RETRIES", 0)


def opened(endpoint: str, uri: str = "hf://org/name", revision: str | None = None) -> HubStorage:
    return open_hub(parse_location(uri), revision, endpoint)


def test_a_branch_is_resolved_to_its_commit() -> None:
    with serve_hub("org/name", FILES) as endpoint:
        assert opened(endpoint, revision="main").revision == COMMIT


def test_files_are_listed_with_the_hubs_digest() -> None:
    with serve_hub("org/name", FILES) as endpoint:
        found = {file.name: file.etag for file in opened(endpoint).list()}
    assert found["config.json"] == hashlib.sha256(b"{}").hexdigest()
    assert sorted(found) == sorted(FILES)


def test_a_range_is_read_without_the_rest() -> None:
    with serve_hub("org/name", FILES) as endpoint:
        assert opened(endpoint).read_range("model.safetensors", 10, 14) == bytes([10, 11, 12, 13])


def test_a_data_set_repository_is_read_below_its_folder() -> None:
    with serve_hub("org/name", FILES) as endpoint:
        storage = opened(endpoint, "hf://datasets/org/name/sub")
        assert [file.name for file in storage.list()] == ["x.jsonl"]
        assert storage.read("x.jsonl") == b'{"a": 1}\n'


def test_a_download_in_ranges_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_streams, "READ_RANGE_BYTES", 100)
    with serve_hub("org/name", FILES) as endpoint:
        stored = opened(endpoint).download("model.safetensors", tmp_path / "x")
    assert stored.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()


def test_an_unknown_revision_is_refused() -> None:
    with serve_hub("org/name", FILES) as endpoint, pytest.raises(StorageRefused, match="no such revision"):
        opened(endpoint, revision="v9")


def test_an_unknown_repository_is_refused_and_the_token_named() -> None:
    with serve_hub("org/name", FILES) as endpoint, pytest.raises(StorageRefused, match="HF_TOKEN"):
        opened(endpoint, "hf://org/other")


def test_a_missing_file_is_refused() -> None:
    with serve_hub("org/name", FILES) as endpoint, pytest.raises(StorageRefused, match="no such file"):
        opened(endpoint).head("nope")


def test_a_hub_in_trouble_is_unavailable() -> None:
    with serve_hub("org/name", FILES, refuse=500) as endpoint, pytest.raises(StorageUnavailable, match="HTTP 500"):
        opened(endpoint)
