"""Names, order and fate of checkpoints."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_names import CheckpointFolder, Shelf, parse_folder, share, superfluous

folders = st.builds(CheckpointFolder, st.integers(0, 10**9), st.integers(1, 99), st.integers(1, 9))


def committed(*found: CheckpointFolder) -> list[str]:
    return [f"{folder.name}/{name}" for folder in found for name in ("manifest.json", "optimizer.pt")]


@given(folders)
def test_a_name_is_read_as_it_is_written(folder: CheckpointFolder) -> None:
    assert parse_folder(folder.name) == folder


def test_what_is_no_checkpoint_is_left_alone() -> None:
    assert Shelf.of(["logs/1/rank-00000.log", "step-12/1/manifest.json", "README.md"]) == Shelf((), ())


def test_the_newest_is_the_highest_step_then_the_latest_attempt_and_start() -> None:
    shelf = Shelf.of(committed(*(CheckpointFolder(*key) for key in [(10, 1, 1), (10, 2, 1), (9, 3, 1), (10, 2, 2)])))

    assert [(f.step, f.attempt, f.start) for f in shelf.committed] == [(10, 2, 2), (10, 2, 1), (10, 1, 1), (9, 3, 1)]


def test_a_checkpoint_without_a_manifest_is_unfinished() -> None:
    assert Shelf.of(["step-00000010/1/optimizer.pt"]) == Shelf((), (CheckpointFolder(10, 1, 1),))


def test_an_attempt_that_starts_again_writes_to_other_folders() -> None:
    shelf = Shelf.of(["step-00000010/2/optimizer.pt", "step-00000004/1-3/manifest.json"])

    assert [shelf.next_start(attempt) for attempt in (1, 2, 3)] == [4, 2, 1]


@given(st.sets(folders, min_size=1), st.sets(folders), st.integers(1, 5), st.data())
def test_deleting_spares_the_newest_verified_and_whatever_is_newer(
    found: set[CheckpointFolder], unfinished: set[CheckpointFolder], keep: int, data: st.DataObject
) -> None:
    verified = data.draw(st.sets(st.sampled_from(sorted(found)), min_size=1))
    rejected = data.draw(st.sets(st.sampled_from(sorted(found)))) - verified
    shelf = Shelf.of([*committed(*found), *(f"{folder.name}/optimizer.pt" for folder in unfinished - found)])

    deleted = superfluous(shelf, verified=verified, rejected=rejected, keep=keep)

    newest = max(verified)
    assert all(folder < newest for folder in deleted)
    left = {folder for folder in found if folder <= newest} - set(deleted)
    assert len(left) <= keep
    assert not left & rejected


@given(st.sets(folders))
def test_nothing_is_deleted_while_nothing_is_verified(found: set[CheckpointFolder]) -> None:
    assert superfluous(Shelf.of(committed(*found)), verified=set(), rejected=(), keep=1) == ()


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_every_file_is_uploaded_exactly_once(pods: int, per_pod: int, data: st.DataObject) -> None:
    names = st.sets(st.sampled_from([f"file-{number}" for number in range(12)]))
    by_pod = [data.draw(names) for _ in range(pods)]
    places = [
        Place(rank=pod * per_pod + local, world_size=pods * per_pod, local_rank=local, local_world_size=per_pod)
        for pod in range(pods)
        for local in range(per_pod)
    ]
    by_rank = [(place.pod, by_pod[place.pod]) for place in places]

    shares = [share(by_rank, place) for place in places]

    uploaded = [name for part in shares for name in part]
    assert sorted(uploaded) == sorted(set().union(*by_pod))
    assert all(set(part) <= by_pod[place.pod] for part, place in zip(shares, places, strict=True))
