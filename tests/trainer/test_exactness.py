"""A run that was killed and goes on has the losses of one that was not disturbed, bit for bit: dropout, data position, optimizer and schedule.

Every strategy, with packed and single rows, killed in a step and in an upload. All runs go over the end of an epoch, and some resume exactly there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent, ResumeEvent
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

STEPS: Final = 11
MID_STEP, MID_UPLOAD = "KILL-STEP:{victim}:8", "KILL-UPLOAD:{victim}:2"
EVERY: Final = {MID_STEP: 4, MID_UPLOAD: 3}
"""Who dies in step 10 goes on from step 8, in the middle of the second epoch (packed: of the third); who dies in the upload of step 6 goes on from
step 3, in the middle of the first (packed: at the end of it)."""
STRATEGIES: Final = (Strategy.SINGLE, Strategy.DDP, Strategy.FSDP, Strategy.ZERO2, Strategy.ZERO3)
CASES: Final = [(strategy, packed, death) for strategy in STRATEGIES for packed in (True, False) for death in EVERY]


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 rows, which make 11 sequences: with a global batch of 4 an epoch has 6 steps, or 3 of packed rows, and its last one is not full."""
    return write_rows(tmp_path_factory.mktemp("few") / "rows.jsonl", arithmetic_rows(22))


def attempt_of(
    strategy: Strategy, model: Path, data: Path, output: Path, *, packed: bool, every: int, number: int = 1
) -> AttemptFile:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy,
        processes=processes,
        micro_batch_size=2 // processes,
        gradient_accumulation=2,
        total_steps=STEPS,
        rows=22,
        packed=packed,
    )
    return tiny_attempt(
        model,
        data,
        output,
        plan=plan,
        attempt=number,
        metrics_port=0,
        training={"learningRate": 1e-2, "precision": "fp32"},
        tuning={"method": "lora", "lora": {"rank": 8, "dropout": 0.1}},
        checkpoint={"every": f"{every}steps"},
    )


def committed(case: CaseResult) -> list[int]:
    return [event.step for event in case.events if isinstance(event, CheckpointEvent) and event.verified]


@pytest.fixture(scope="module")
def undisturbed(
    ranks: RankServer, tiny_model: Path, few_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Strategy, bool], CaseResult]:
    @functools.cache
    def run(strategy: Strategy, packed: bool) -> CaseResult:
        folder = tmp_path_factory.mktemp("undisturbed")
        attempt = attempt_of(strategy, tiny_model, few_rows, folder / "out", packed=packed, every=EVERY[MID_STEP])
        return ranks.run(attempt, folder / "run", probes=("saves",))

    return run


@pytest.mark.parametrize(("strategy", "packed", "death"), CASES)
def test_a_killed_run_goes_on_with_the_same_losses_bit_for_bit(
    strategy: Strategy,
    packed: bool,
    death: str,
    undisturbed: Callable[[Strategy, bool], CaseResult],
    ranks: RankServer,
    tiny_model: Path,
    few_rows: Path,
    tmp_path: Path,
) -> None:
    def run(name: str, *probes: str, number: int = 1) -> CaseResult:
        output, every = tmp_path / "out", EVERY[death]
        attempt = attempt_of(strategy, tiny_model, few_rows, output, packed=packed, every=every, number=number)
        return ranks.run(attempt, tmp_path / name, probes=probes, environment={"FINETUNE_TEST_OUTPUT": str(output)})

    whole = undisturbed(strategy, packed)
    victim = whole.processes - 1
    killed = run("killed", death.format(victim=victim))
    resumed = run("resumed", number=2)

    assert whole.statuses == resumed.statuses == (0,) * (victim + 1), resumed.log()
    assert whole.probe("saves", 0) == {"tensors_on_disk": []}
    assert killed.statuses == ((-9,) if victim == 0 else (ExitCode.PEER_LOST, -9)), killed.log()
    (resume,) = (event.step for event in resumed.events if isinstance(event, ResumeEvent))
    assert resume == committed(killed)[-1] == {MID_STEP: 8, MID_UPLOAD: 3}[death]
    assert resumed.losses == {step: whole.losses[step] for step in range(resume + 1, STEPS + 1)}
    assert committed(resumed)[-1] == STEPS
