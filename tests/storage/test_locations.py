import pytest

from finetune_trainer.storage import StorageRefused
from finetune_trainer.storage_location import matches, parse_location, split_pattern


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket/a//b", "gs://bucket/a/b"),
        ("file:///a/./b", "file:///a/b"),
        ("hf://org/name", "hf://org/name"),
        ("hf://org/name@v1", "hf://org/name@v1"),
        ("hf://datasets/org/name/train.jsonl", "hf://datasets/org/name/train.jsonl"),
    ],
)
def test_a_location_has_one_canonical_form(uri: str, canonical: str) -> None:
    assert parse_location(uri).uri == canonical


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/x", "schemes"),
        ("bucket/x", "schemes"),
        ("s3://", "no bucket"),
        ("file://relative", "absolute path"),
        ("hf://name", "does not name a repository"),
    ],
)
def test_a_malformed_location_is_refused_with_the_remedy(uri: str, words: str) -> None:
    with pytest.raises(StorageRefused, match=words):
        parse_location(uri)


def test_credentials_in_a_location_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageRefused) as refusal:
        parse_location("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(refusal.value)
    assert "AKIAKEY" not in str(refusal.value)


@pytest.mark.parametrize(
    ("uri", "folder", "pattern"),
    [
        ("s3://b/a/x.jsonl", "s3://b/a", "x.jsonl"),
        ("s3://b/x.jsonl", "s3://b", "x.jsonl"),
        ("s3://b/a/*/x-*.jsonl", "s3://b/a", "*/x-*.jsonl"),
        ("hf://datasets/o/n/d/*.jsonl", "hf://datasets/o/n/d", "*.jsonl"),
    ],
)
def test_a_pattern_is_split_before_its_first_star(uri: str, folder: str, pattern: str) -> None:
    assert split_pattern(uri) == (folder, pattern)


def test_a_star_does_not_cross_a_slash() -> None:
    assert matches("part-1.jsonl", "*.jsonl")
    assert not matches("deep/part-1.jsonl", "*.jsonl")
