"""Results in a real OCI registry, with TLS and a password, and read back by ORAS. No cluster is started for it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import oras.provider
import pytest
import requests
from testbed.registry import Registry

from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.publish.destinations import check_destinations, send
from finetune_trainer.publish.oci import ARTIFACT_TYPE, UID_ANNOTATION, OciRepository
from finetune_trainer.storage_errors import StorageRefused, StorageUnavailable
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, write_rows

CONFIG = {"descriptor": {"name": "bot"}, "config": {"format": "safetensors"}}
NOTES = {UID_ANNOTATION: "uid-1"}


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("protected"), protected=True)
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("plain"), protected=False)
    registry.start()
    yield registry
    registry.stop()


def write_result(folder: Path, weights: bytes = b"weights" * 100_000) -> tuple[FileEntry, ...]:
    contents = {"model.safetensors": weights, "config.json": b"{}", "adapter/empty.json": b"", "README.md": b"# bot"}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return tuple(
        FileEntry(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    )


def repository(registry: Registry, tag: str = "v1", login: Path | None = None) -> OciRepository:
    folder = login or registry.directory / "login"
    return OciRepository(f"{registry.host}/team/bot:{tag}", {"DOCKER_CONFIG": str(folder)})


def test_what_was_pushed_is_pulled_by_oras_with_the_same_bytes(protected: Registry, tmp_path: Path) -> None:
    files = write_result(tmp_path / "result")
    target = repository(protected)
    target.check_writable()
    assert target.owner() is None

    digest = target.push(tmp_path / "result", files, CONFIG, NOTES)

    assert target.owner() == "uid-1"
    login = json.loads((protected.directory / "login" / "config.json").read_text())["auths"][protected.host]["auth"]
    client = oras.provider.Registry(tls_verify=str(protected.directory / "login" / "ca.crt"), auth_backend="basic")
    client.auth.set_basic_auth(*base64.b64decode(login).decode().split(":", 1))
    client.pull(f"{protected.host}/team/bot@{digest}", outdir=str(tmp_path / "pulled"))
    for entry in files:
        assert hashlib.sha256((tmp_path / "pulled" / entry.name).read_bytes()).hexdigest() == entry.sha256
    manifest = client.get_manifest(f"{protected.host}/team/bot:v1")
    assert manifest["artifactType"] == ARTIFACT_TYPE
    assert [layer["mediaType"].rsplit(".", 3)[1] for layer in manifest["layers"]] == [
        "weight",
        "config",
        "config",
        "doc",
    ]


def test_pushing_again_sends_nothing(plain: Registry, tmp_path: Path) -> None:
    files = write_result(tmp_path)
    first = repository(plain).push(tmp_path, files, CONFIG, NOTES)
    before = {path: path.stat().st_mtime_ns for path in plain.blobs.rglob("*") if path.is_file()}

    assert repository(plain).push(tmp_path, files, CONFIG, NOTES) == first

    assert {path: path.stat().st_mtime_ns for path in plain.blobs.rglob("*") if path.is_file()} == before


def test_a_push_that_was_cut_off_goes_on_where_it_was(plain: Registry, tmp_path: Path) -> None:
    files = write_result(tmp_path, b"other weights" * 1000)
    gone = FileEntry(name="gone.bin", size=1, sha256="0" * 64)
    with pytest.raises(FileNotFoundError):
        repository(plain, "v2").push(tmp_path, (files[0], gone), CONFIG, NOTES)
    assert repository(plain, "v2").owner() is None
    repository(plain, "v2").push(tmp_path, files, CONFIG, NOTES)
    answer = requests.get(f"http://{plain.host}/v2/team/bot/blobs/sha256:{files[0].sha256}", timeout=10)
    assert answer.content == b"other weights" * 1000


def test_without_a_login_or_its_authority_the_refusal_says_what_to_do(protected: Registry, tmp_path: Path) -> None:
    login = protected.directory / "login"
    (tmp_path / "ca.crt").write_text((login / "ca.crt").read_text())
    with pytest.raises(StorageRefused, match=r"wants a user and a password; check the Secret of credentials\.registry"):
        repository(protected, login=tmp_path).check_writable()
    wrong = {"auths": {protected.host: {"auth": base64.b64encode(b"docker:wrong").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(StorageRefused, match="refuses access"):
        repository(protected, login=tmp_path).check_writable()


def test_a_registry_that_is_gone_is_tried_again_and_then_told(tmp_path: Path) -> None:
    target = OciRepository("127.0.0.1:9/team/bot:v1", {})
    target._pauses = (0.0,)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        target.check_writable()


def test_a_job_finds_its_own_model_there_and_refuses_anothers(plain: Registry, tmp_path: Path) -> None:
    write_result(tmp_path / "result")
    names = ("README.md", "config.json", "model.safetensors")
    rows = write_rows(tmp_path / "rows.jsonl", arithmetic_rows(4))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    attempt = tiny_attempt(tmp_path, rows, tmp_path / "out", output={"oci": f"{plain.host}/team/other:v1"})
    checkpoint = Manifest.model_validate(
        {"kind": "checkpoint", "namespace": "default", "job": "tiny", "uid": attempt.uid, "attempt": 1, "step": 8}
        | {"worldSize": 1, "strategy": "single", "createdAt": "2026-01-01T00:00:00Z", "versions": {}, "files": []}
    )
    files = tuple(entry for entry in write_result(tmp_path / "result") if entry.name in names)
    check_destinations(attempt.spec.output, attempt.uid)

    sent = send(attempt, tmp_path / "result", files, checkpoint)

    assert sent[0].startswith(f"oci://{plain.host}/team/other:v1@sha256:")
    check_destinations(attempt.spec.output, attempt.uid)
    assert send(attempt, tmp_path / "result", files, checkpoint) == sent
    with pytest.raises(TrainerFailure, match=r"holds the model of the job with uid .* set output\.ifExists: overwrite"):
        check_destinations(attempt.spec.output, "another uid")
    check_destinations(attempt.spec.output.model_copy(update={"if_exists": "overwrite"}), "another uid")
