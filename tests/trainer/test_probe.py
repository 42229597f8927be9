"""The longest batch is tried before the first step, and nobody can tell it from the losses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune_operator.api.compatibility import Objective, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import Phase
from finetune_operator.api.run_events import StepEvent
from finetune_trainer.objectives import recipe_of
from finetune_trainer.probe import longest_rows
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

DROPOUT: dict[str, Any] = {"tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}}}
FULL: dict[str, Any] = {"tuning": {"method": "full"}}


def probed(spec: dict[str, Any], *, probe: bool) -> dict[str, Any]:
    return {**spec, "resources": {"accelerator": "cpu", "probe": probe}}


def steps_of(result: CaseResult) -> list[dict[str, Any]]:
    """All that is told of each step, but for the time it took."""
    return [event.model_dump(exclude={"seconds"}) for event in result.events if isinstance(event, StepEvent)]


def test_the_longest_rows_come_first_and_are_repeated_where_there_are_too_few() -> None:
    rows = Dataset.from_dict({"input_ids": [[1], [1, 2, 3], [1, 2]]})
    lengths_of = recipe_of(Objective.SFT).lengths
    assert longest_rows(rows, 2, lengths_of) == [1, 2]
    assert longest_rows(rows, 5, lengths_of) == [1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("strategy", "spec", "accumulation"),
    [
        (Strategy.SINGLE, DROPOUT, 2),
        (Strategy.DDP, DROPOUT, 1),
        (Strategy.FSDP, FULL, 2),
        (Strategy.ZERO2, FULL, 2),
        (Strategy.ZERO2, DROPOUT, 1),
        (Strategy.ZERO3, FULL, 2),
    ],
)
def test_losses_are_those_of_a_run_that_was_not_probed_bit_for_bit(
    strategy: Strategy,
    spec: dict[str, Any],
    accumulation: int,
    ranks: RankServer,
    make_attempt: Any,
    tmp_path: Path,
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy, processes=processes, micro_batch_size=2, gradient_accumulation=accumulation, total_steps=4
    )
    without = ranks.run(make_attempt(plan, output="without", **probed(spec, probe=False)), tmp_path / "without")
    with_probe = ranks.run(make_attempt(plan, **probed(spec, probe=True)), tmp_path / "with")

    assert with_probe.statuses == (0,) * processes, with_probe.log()
    assert "the longest batch (2 × " in with_probe.log()
    assert "the longest batch" not in without.log()
    assert with_probe.losses == without.losses
    assert steps_of(with_probe) == steps_of(without)


def test_a_gpu_that_is_too_small_for_the_longest_batch_says_so_before_the_first_step(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    rows = arithmetic_rows(32)
    rows[20]["messages"][0]["content"] *= 2
    data = write_rows(tmp_path / "rows.jsonl", rows)

    def run(name: str, *probes: str, probe: bool = True) -> CaseResult:
        plan = tiny_plan(micro_batch_size=1, gradient_accumulation=2, total_steps=16, rows=32)
        spec = probed(FULL, probe=probe)
        attempt = tiny_attempt(tiny_model, data, tmp_path / f"{name}-out", plan=plan, metrics_port=0, **spec)
        return ranks.run(attempt, tmp_path / name, probes=probes)

    length = re.search(r"the longest batch \(1 × (\d+) tokens\)", run("roomy").log())
    assert length is not None
    small_gpu = f"limit:0:{int(length[1]) - 1}"
    with_probe, without = run("probed", small_gpu), run("unprobed", small_gpu, probe=False)

    assert with_probe.statuses == without.statuses == (ExitCode.GPU_OUT_OF_MEMORY,)
    assert len(without.losses) >= 1
    assert with_probe.losses == {}
    (error,) = with_probe.run.errors()
    assert error.memory_shortage is not None
    assert error.memory_shortage.phase is Phase.BACKWARD


def test_a_resume_by_the_same_plan_is_not_probed_again(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoint": {"every": "2steps"}, **FULL}
    plan = tiny_plan(total_steps=4)
    killed = ranks.run(
        make_attempt(plan, **settings),
        tmp_path / "killed",
        probes=("KILL:0:4",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(make_attempt(plan, attempt=2, **settings), tmp_path / "resumed")
    halved = tiny_plan(total_steps=6, micro_batch_size=2, gradient_accumulation=2)
    replanned = ranks.run(make_attempt(halved, attempt=3, **settings), tmp_path / "replanned")

    assert "the longest batch" in killed.log()
    assert resumed.statuses == (0,)
    assert "the longest batch" not in resumed.log()
    assert "the longest batch (2 × " in replanned.log()
    assert sorted(replanned.losses) == [5, 6]
