import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer import storage as storage_module
from finetune_trainer import storage_streams
from finetune_trainer.storage import AlreadyExists, ObjectStorage, StorageRefused, open_storage, open_writable


@pytest.fixture
def storage(tmp_path: Path) -> ObjectStorage:
    return open_writable(f"file://{tmp_path}/not yet/there")


def test_a_small_file_is_read_as_it_was_written(storage: ObjectStorage) -> None:
    storage.put_small("a/b.json", b"{}")
    assert storage.read("a/b.json") == b"{}"


def test_a_create_only_write_leaves_an_existing_file_as_it_is(storage: ObjectStorage) -> None:
    storage.put_small("manifest.json", b"first", create_only=True)
    with pytest.raises(AlreadyExists, match=r"manifest\.json: it is there already"):
        storage.put_small("manifest.json", b"second", create_only=True)
    assert storage.read("manifest.json") == b"first"


def test_a_large_conditional_write_is_refused_because_servers_close_the_connection(storage: ObjectStorage) -> None:
    with pytest.raises(ValueError, match="use upload"):
        storage.put_small("large", b"x" * (storage_module.SMALL_BYTES + 1))


def test_a_missing_file_is_refused_with_its_uri_and_a_remedy(storage: ObjectStorage) -> None:
    with pytest.raises(StorageRefused, match=r"there/nope: it is not there; check the URI") as refusal:
        storage.read("nope")
    assert refusal.value.missing
    assert refusal.value.exit_code is ExitCode.NOT_FOUND


def test_the_files_of_a_folder_that_is_not_there_are_none(storage: ObjectStorage) -> None:
    assert list(storage.list("nowhere")) == []


def test_files_are_listed_by_name_below_the_prefix_only(storage: ObjectStorage) -> None:
    for name in ("b/2", "b/1", "bb/3", "a"):
        storage.put_small(name, b"x")
    assert [file.name for file in storage.list("b")] == ["b/1", "b/2"]
    assert [file.name for file in storage.list()] == ["a", "b/1", "b/2", "bb/3"]


def test_the_etag_of_a_local_file_is_its_modification_time(storage: ObjectStorage, tmp_path: Path) -> None:
    storage.put_small("x", b"x")
    os.utime(tmp_path / "not yet/there/x", ns=(1, 1_234_567_891))
    assert storage.head("x").etag == "1234567891"


def test_a_prefix_is_deleted_and_nothing_beside_it(storage: ObjectStorage) -> None:
    for name in ("step-1/a", "step-1/b/c", "step-10/a"):
        storage.put_small(name, b"x")
    assert storage.delete_prefix("step-1") == 2
    assert [file.name for file in storage.list()] == ["step-10/a"]


def test_the_whole_storage_is_never_deleted(storage: ObjectStorage) -> None:
    with pytest.raises(ValueError, match="below the storage's root"):
        storage.delete_prefix("/")


def test_deleting_what_is_not_there_is_no_error(storage: ObjectStorage) -> None:
    storage.delete("nope")


def test_an_interrupted_download_leaves_no_file(storage: ObjectStorage, tmp_path: Path) -> None:
    with pytest.raises(StorageRefused):
        storage.download("nope", tmp_path / "copy")
    assert list(tmp_path.glob("*copy*")) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageRefused):
        open_writable(f"file://{tmp_path}/file/below").put_small("x", b"")


@settings(deadline=None, max_examples=25)
@given(content=st.binary(max_size=2000))
def test_what_goes_up_comes_down_with_the_same_digest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("storage")
    (folder / "source").write_bytes(content)
    storage = open_writable(f"file://{folder}/store")
    up = storage.upload(folder / "source", "x/ü #1.bin")
    down = storage.download("x/ü #1.bin", folder / "copy")
    assert up == down
    assert up.sha256 == hashlib.sha256(content).hexdigest()
    assert (folder / "copy").read_bytes() == content


def test_a_file_of_several_ranges_streams_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_streams, "READ_RANGE_BYTES", 7)
    (tmp_path / "numbers").write_bytes(bytes(range(100)))
    chunks = list(open_storage(f"file://{tmp_path}").stream("numbers"))
    assert len(chunks) == 15
    assert b"".join(chunks) == bytes(range(100))


def test_an_upload_in_parts_is_hashed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "PART_BYTES", 1024)
    content = os.urandom(10_000)
    (tmp_path / "source").write_bytes(content)
    storage = open_writable(f"file://{tmp_path}/store")
    assert storage.upload(tmp_path / "source", "x").sha256 == hashlib.sha256(content).hexdigest()
    assert storage.read("x") == content
