"""Evaluations during a run: what they measure, and that the training does not notice them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.evaluation import EarlyStopping, EvaluationTimes
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.run_events import EvaluationEvent
from finetune_trainer.evaluation import batches_of
from finetune_trainer.testing import arithmetic_rows, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

STEPS = 6
FULL: dict[str, Any] = {"tuning": {"method": "full"}}
DROPOUT: dict[str, Any] = {"tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}}}


def evaluated(result: CaseResult) -> dict[int, float]:
    found = [(event.step, event.loss) for event in result.events if isinstance(event, EvaluationEvent)]
    assert len(dict(found)) == len(found), "every evaluation is made once"
    return dict(found)


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=40),
    size=st.integers(min_value=1, max_value=7),
    world_size=st.integers(min_value=1, max_value=5),
)
def test_every_row_counts_once_and_ranks_meet_equally_often(lengths: list[int], size: int, world_size: int) -> None:
    shares = [batches_of(lengths, size, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch in share if batch.counts for row in batch.rows]
    assert sorted(rows) == list(range(len(lengths)))


@given(total=st.integers(min_value=1, max_value=5000), every=st.none() | st.integers(min_value=1, max_value=6000))
def test_a_run_evaluates_at_its_end_and_about_ten_times_unless_it_is_told(total: int, every: int | None) -> None:
    times = EvaluationTimes(every, total)
    due = [step for step in range(total + 1) if times.is_due(step)]
    assert due[-1] == total
    assert due[0] == min(total, every or -(-total // 10))
    assert every is not None or len(due) <= 10


@pytest.fixture
def evaluation(tmp_path: Path) -> dict[str, Any]:
    """Eleven rows: no batch size divides them among two ranks."""
    return {"uri": f"file://{write_rows(tmp_path / 'evaluation.jsonl', arithmetic_rows(11, seed=7))}"}


@pytest.mark.parametrize(
    ("strategy", "spec", "packed"),
    [
        (Strategy.SINGLE, DROPOUT, True),
        (Strategy.DDP, DROPOUT, False),
        (Strategy.FSDP, FULL, False),
        (Strategy.ZERO3, FULL, False),
    ],
)
def test_the_losses_of_a_run_that_evaluates_are_those_of_one_that_does_not_bit_for_bit(
    strategy: Strategy,
    spec: dict[str, Any],
    packed: bool,
    evaluation: dict[str, Any],
    ranks: RankServer,
    make_attempt: Any,
    tmp_path: Path,
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy, processes=processes, micro_batch_size=4 // processes, total_steps=4, packed=packed
    )
    with_evaluation = {"dataset": {"evaluation": evaluation}, "evaluation": {"every": 3}, **spec}
    without = ranks.run(make_attempt(plan, output="without", **spec), tmp_path / "without")
    result = ranks.run(make_attempt(plan, **with_evaluation), tmp_path / "with")

    assert result.statuses == (0,) * processes, result.log()
    assert result.losses == without.losses
    assert list(evaluated(result)) == [3, 4]
    assert "evaluation after step 4: loss " in result.log()


def test_the_loss_of_an_evaluation_does_not_depend_on_batches_and_processes(
    evaluation: dict[str, Any], ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    one, two = (
        ranks.run(
            make_attempt(plan, output=name, dataset={"evaluation": evaluation}, evaluation={"every": 1}, **FULL),
            tmp_path / name,
        )
        for name, plan in (
            ("one", tiny_plan(micro_batch_size=4, total_steps=2)),
            (
                "two",
                tiny_plan(
                    strategy=Strategy.DDP, processes=2, micro_batch_size=1, gradient_accumulation=2, total_steps=2
                ),
            ),
        )
    )
    assert evaluated(one) == pytest.approx(evaluated(two), abs=1e-4)
    assert evaluated(one)[2] < evaluated(one)[1]


@pytest.mark.parametrize("strategy", [Strategy.SINGLE, Strategy.FSDP])
def test_a_training_that_no_longer_gets_better_ends_with_a_checkpoint_that_can_be_published(
    strategy: Strategy, evaluation: dict[str, Any], ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(strategy=strategy, processes=processes, micro_batch_size=2, total_steps=9)
    spec = {
        "dataset": {"evaluation": evaluation},
        "evaluation": {"every": 2},
        # A rate at which nothing changes: the first evaluation stays the best one.
        "training": {"earlyStopping": {"patience": 2}, "learningRate": 1e-12},
        **FULL,
    }
    result = ranks.run(make_attempt(plan, **spec), tmp_path / "run")
    again = ranks.run(make_attempt(plan, attempt=2, **spec), tmp_path / "again")

    assert result.statuses == again.statuses == (0,) * processes, result.log()
    assert list(evaluated(result)) == [2, 4, 6]
    assert "the training ends after step 6 of 9: no evaluation was better than that of step 2" in result.log()
    (path,) = (tmp_path / "out").glob("checkpoints/*/step-*/*/manifest.json")
    manifest = Manifest.model_validate_json(path.read_bytes())
    assert (manifest.step, manifest.is_final) == (6, True)
    exported = [file.name for file in manifest.files if file.name.endswith(".safetensors")]
    assert exported, "the weights that publish takes"
    assert again.losses == {}
    assert "all 6 steps are done and saved already" in again.log()


def test_patience_counts_evaluations_since_the_best_one() -> None:
    rule = EarlyStopping(patience=3)
    assert next(step for step in range(100, 1000, 100) if rule.is_over(step, 200, 100)) == 500


@pytest.mark.parametrize(("probe", "status"), [("KILL-STEP:0:4", -9), ("TERM:0:3", ExitCode.TERMINATED)])
def test_a_run_that_was_ended_goes_on_with_the_same_losses_and_evaluations(
    probe: str, status: int, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    spec = {
        "dataset": {"split": {"evaluation": 0.2}},
        "evaluation": {"every": 2},
        "checkpoint": {"every": "2steps"},
        **DROPOUT,
    }
    plan = tiny_plan(micro_batch_size=2, gradient_accumulation=2, total_steps=STEPS)
    whole = ranks.run(make_attempt(plan, output="whole", **spec), tmp_path / "whole")
    output = {"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")}
    ended = ranks.run(make_attempt(plan, **spec), tmp_path / "ended", probes=(probe,), environment=output)
    resumed = ranks.run(make_attempt(plan, attempt=2, **spec), tmp_path / "resumed")

    assert ended.statuses == (status,), ended.log()
    assert resumed.statuses == (0,), resumed.log()
    assert resumed.losses == {step: loss for step, loss in whole.losses.items() if step > 4}
    assert evaluated(ended) | evaluated(resumed) == evaluated(whole)
    # A pod that is stopped leaves the evaluation of its last step to its successor; one that has done it does not do it twice.
    assert set(evaluated(ended)) & set(evaluated(resumed)) == set()
