"""A manifest that cannot be used is refused with file, field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.job import FineTuneJob
from finetune_operator.cli.manifest_file import UnreadableManifest, read_job, with_absolute_locations


def written(folder: Path, *documents: Any) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_the_job_is_found_among_other_documents(tmp_path: Path, good_manifest: dict[str, Any]) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}}
    assert read_job(written(tmp_path, secret, good_manifest)).metadata.name == "support-bot"


def test_a_file_without_a_job_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableManifest, match=r"0 documents of kind FineTuneJob \(it has: FinetuneJob\)"):
        read_job(written(tmp_path, {"kind": "FinetuneJob"}))


def test_a_file_with_two_jobs_says_so(tmp_path: Path, good_manifest: dict[str, Any]) -> None:
    with pytest.raises(UnreadableManifest, match="give exactly one"):
        read_job(written(tmp_path, good_manifest, good_manifest))


def test_numbers_are_read_as_kubectl_reads_them(tmp_path: Path, good_manifest: dict[str, Any]) -> None:
    path = tmp_path / "job.yaml"
    text = yaml.safe_dump(good_manifest | {"spec": good_manifest["spec"] | {"training": {"learningRate": "RATE"}}})
    for written_as in ("2e-4", "2.0e-04", ".2E-3", "0.0002"):
        path.write_text(text.replace("RATE", written_as))
        assert read_job(str(path)).spec.training.learning_rate == 2e-4
    path.write_text(text.replace("RATE", "'2e-4'"))
    with pytest.raises(UnreadableManifest, match=r"spec\.training\.learningRate: must be of type number: .*'2e-4'"):
        read_job(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableManifest, match=r"absent\.yaml: cannot be read"):
        read_job(str(tmp_path / "absent.yaml"))


def test_broken_yaml_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: [FineTuneJob\n")
    with pytest.raises(UnreadableManifest, match="is not YAML: while parsing"):
        read_job(str(path))


def test_an_invalid_job_is_refused_with_file_and_field(tmp_path: Path, good_manifest: dict[str, Any]) -> None:
    good_manifest["spec"]["training"] = {"epoch": 3}
    with pytest.raises(UnreadableManifest, match=r"job\.yaml: spec\.training\.epoch: no such field"):
        read_job(written(tmp_path, good_manifest))


def test_relative_files_are_found_from_where_the_user_stands(tmp_path: Path, good_manifest: dict[str, Any]) -> None:
    good_manifest["spec"]["model"]["uri"] = "file://models/tiny"
    good_manifest["spec"]["checkpoint"] = {"uri": "file:///scratch/checkpoints"}
    rewards = [{"verifier": "answer-format"}, {"model": {"uri": "file://models/judge"}}]
    good_manifest["spec"] |= {"objective": "rloo", "training": {"rloo": {"rewards": rewards}}}
    spec = with_absolute_locations(FineTuneJob.from_manifest(good_manifest).spec, tmp_path)
    assert spec.model.uri == f"file://{tmp_path}/models/tiny"
    rewards = spec.training.online.reward_models if spec.training.online else ()
    assert [model.uri for model in rewards] == [f"file://{tmp_path}/models/judge"]
    assert spec.checkpoint.uri == "file:///scratch/checkpoints"
    assert spec.output.uri == "s3://models/support-bot"


def test_every_data_set_is_found_from_where_the_manifest_is(good_manifest: dict[str, Any], tmp_path: Path) -> None:
    del good_manifest["spec"]["dataset"]
    good_manifest["spec"]["datasets"] = [
        {"uri": "file://a.jsonl", "evaluation": {"uri": "file://kept.jsonl"}},
        {"uri": "s3://data/b.jsonl", "weight": 0.5},
    ]
    first, second = with_absolute_locations(FineTuneJob.from_manifest(good_manifest).spec, tmp_path).all_datasets
    assert (first.uri, second.uri, second.weight) == (f"file://{tmp_path}/a.jsonl", "s3://data/b.jsonl", 0.5)
    assert first.evaluation is not None
    assert first.evaluation.uri == f"file://{tmp_path}/kept.jsonl"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_example_is_a_job(path: Path) -> None:
    assert read_job(str(path)).spec.output.uri
