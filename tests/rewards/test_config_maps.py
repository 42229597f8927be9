"""Functions of the user in ConfigMaps: what the inspection finds of them, and what ranks import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.rewards import Reward
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rewards.config_maps import SIZE_LIMIT, inspect_functions, read_keys
from finetune_trainer.rewards.scoring import reward_functions

SCORE = "def score(completions, **others):\n    return [1.0] * len(completions)\n"


def mounted(folder: Path, name: str = "mine", **keys: str) -> Path:
    """Lay keys out as the kubelet does: links into a folder of a version that it replaces as a whole."""
    version = folder / name / "..2026_11_22"
    version.mkdir(parents=True)
    (folder / name / "..data").symlink_to(version.name)
    for key, content in keys.items():
        (version / f"{key}.py").write_text(content)
        (folder / name / f"{key}.py").symlink_to(f"..data/{key}.py")
    return folder


def reward(function: str = "rated:score", config_map: str = "mine") -> Reward:
    return Reward(function=function, config_map=config_map)


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_every_key_is_named_with_its_size_and_digest(tmp_path: Path) -> None:
    files = inspect_functions([reward()], mounted(tmp_path, rated=SCORE, beside="x = 1\n"))

    assert [file.uri for file in files] == ["configmap:mine/beside.py", "configmap:mine/rated.py"]
    assert files[1].size == len(SCORE)
    assert files[1].etag == sha256(SCORE.encode()).hexdigest()


def test_code_is_read_and_never_run_by_the_inspection(tmp_path: Path) -> None:
    assert inspect_functions([reward()], mounted(tmp_path, rated=f"raise SystemExit\n{SCORE}"))


@pytest.mark.parametrize(
    "source",
    [
        "from beside import score\n",
        "from beside import *\n",
        "if True:\n    score = len\n",
        "class score:\n    pass\n",
    ],
)
def test_a_name_may_come_to_a_module_in_any_way(source: str, tmp_path: Path) -> None:
    assert inspect_functions([reward()], mounted(tmp_path, rated=source))


def test_a_config_map_or_key_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(
        TrainerFailure, match=r"no ConfigMap mine in the job's namespace.* kubectl create configmap"
    ) as no_map:
        inspect_functions([reward()], tmp_path)
    with pytest.raises(TrainerFailure, match=r"has no key rated\.py, but other\.py; add it") as no_key:
        inspect_functions([reward()], mounted(tmp_path, other=SCORE))

    assert {no_map.value.exit_code, no_key.value.exit_code} == {ExitCode.NOT_FOUND}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def score(:\n", r"is no Python in line 1"),
        ("def rate():\n    score = 1\n", r"rated\.py of ConfigMap mine has no score"),
    ],
)
def test_a_key_that_cannot_hold_the_function_ends_the_job(source: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TrainerFailure, match=said) as failure:
        inspect_functions([reward()], mounted(tmp_path, rated=source))

    assert failure.value.exit_code is ExitCode.BAD_SPEC


def test_two_config_maps_with_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    mounted(tmp_path, "mine", rated=SCORE, common="")
    mounted(tmp_path, "yours", valued=SCORE, common="")

    with pytest.raises(TrainerFailure, match=r"mine and yours both have common\.py"):
        inspect_functions([reward(), reward("valued:score", "yours")], tmp_path)


def test_a_folder_with_more_than_a_config_map_can_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.jsonl").write_bytes(bytes(SIZE_LIMIT + 1))

    with pytest.raises(TrainerFailure, match="has room for 1048576"):
        read_keys("mine", tmp_path)


@pytest.mark.usefixtures("search_path")
def test_a_module_is_imported_with_those_beside_it(tmp_path: Path) -> None:
    mounted(tmp_path, rated_beside="from rated_common import score\n", rated_common=SCORE)
    (function,) = reward_functions([reward("rated_beside:score")], folders={"mine": tmp_path / "mine"})

    assert function(prompts=["?"], completions=["a"]) == [1.0]


@pytest.mark.usefixtures("search_path")
@pytest.mark.parametrize(
    ("key", "source", "said"),
    [
        ("json", SCORE.replace("score", "loads"), "the trainer's image has a module json of its own"),
        ("rated_raises", f"1 / 0\n{SCORE}", "its module raised ZeroDivisionError"),
        ("rated_imports", f"import no_such_module\n{SCORE}", "the trainer's image has not what it imports"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_reason(
    key: str, source: str, said: str, tmp_path: Path
) -> None:
    mounted(tmp_path, **{key: source})

    with pytest.raises(TrainerFailure, match=said):
        reward_functions(
            [reward(f"{key}:{'loads' if key == 'json' else 'score'}")], folders={"mine": tmp_path / "mine"}
        )
