"""One place, one model: who may publish where."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.manifest import Manifest
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Output
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.result_target import CLAIM_FILE, claim, model_at, release
from finetune_trainer.storage import ObjectStorage, open_writable


@pytest.fixture
def place(tmp_path: Path) -> ObjectStorage:
    return open_writable(f"file://{tmp_path}/out")


def output(place: ObjectStorage, if_exists: str = "fail") -> Output:
    return Output.model_validate({"uri": place.uri, "ifExists": if_exists})


def publish(place: ObjectStorage, uid: str) -> None:
    manifest = Manifest(
        kind="model",
        namespace="team",
        job=f"job-{uid}",
        uid=uid,
        attempt=1,
        step=9,
        world_size=1,
        strategy="single",
        created_at="2026-01-01T00:00:00Z",
        versions={},
        files=(),
    )
    place.put_small("manifest.json", manifest.model_dump_json(by_alias=True).encode())


def test_an_empty_place_is_free(place: ObjectStorage) -> None:
    assert model_at(place, output(place), "a") is None


def test_a_jobs_own_model_is_found_again(place: ObjectStorage) -> None:
    publish(place, "a")
    found = model_at(place, output(place), "a")
    assert found is not None
    assert found.uid == "a"


def test_another_jobs_model_is_named_with_the_remedy(place: ObjectStorage) -> None:
    publish(place, "a")
    with pytest.raises(TrainerFailure, match="job team/job-a; choose another output") as refusal:
        model_at(place, output(place), "b")
    assert refusal.value.reason is Reason.OUTPUT_EXISTS


def test_two_jobs_cannot_publish_to_one_place_at_once(place: ObjectStorage) -> None:
    claim(place, output(place), "team", "first", "a")
    with pytest.raises(TrainerFailure, match="job team/first is publishing"):
        claim(place, output(place), "team", "second", "b")


def test_a_publication_that_was_interrupted_goes_on(place: ObjectStorage) -> None:
    claim(place, output(place), "team", "first", "a")
    claim(place, output(place), "team", "first", "a")
    release(place)
    assert not place.exists(CLAIM_FILE)


def test_a_job_that_was_late_finds_the_other_ones_model_and_leaves_no_claim(place: ObjectStorage) -> None:
    publish(place, "a")
    with pytest.raises(TrainerFailure, match="job team/job-a"):
        claim(place, output(place), "team", "second", "b")
    assert not place.exists(CLAIM_FILE)


def test_who_may_overwrite_takes_the_place_over(place: ObjectStorage) -> None:
    claim(place, output(place), "team", "first", "a")
    claim(place, output(place, "overwrite"), "team", "second", "b")
    assert place.read(CLAIM_FILE) == b"team/second b"
