"""A training on several weighted data sets, from the inspection on: it is planned for the rows it has, and goes on exactly after it was killed."""

from __future__ import annotations

from pathlib import Path

from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import EvaluationEvent, ResumeEvent
from finetune_trainer.inspect.command import inspect
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

STEPS = 20
"""An epoch has 12: who dies in step 18 goes on from step 16, in the second epoch."""


def attempt_of(model: Path, folder: Path, *, output: str, number: int) -> AttemptFile:
    """Return an attempt planned by its own inspection: two data sets of two formats, of which 0.5 and 2.5 of each row are learned."""
    talk = write_rows(folder / "talk.jsonl", arithmetic_rows(24))
    plain = write_rows(folder / "plain.jsonl", [{"prompt": f"{n} + 1 = ", "completion": f"{n + 1}"} for n in range(20)])
    split = {"evaluation": 0.2}
    attempt = tiny_attempt(
        model,
        talk,
        folder / output,
        plan=tiny_plan(),
        attempt=number,
        metrics_port=0,
        dataset=None,
        datasets=[
            {"uri": f"file://{talk}", "weight": 0.5, "split": split},
            {"uri": f"file://{plain}", "weight": 2.5, "split": split},
        ],
        training={"learningRate": 1e-2, "precision": "fp32"},
        tuning={"method": "lora", "lora": {"rank": 8, "dropout": 0.1}},
        checkpoint={"every": "4steps"},
        evaluation={"every": 10},
    )
    request = InspectionRequest(
        namespace="default", name="tiny", uid=attempt.uid, spec=attempt.spec, key="0123456789abcdef"
    )
    report = inspect(request, folder / "report.json")
    rows = report.dataset.rows
    plan = tiny_plan(rows=rows, total_steps=STEPS, micro_batch_size=2, gradient_accumulation=2)
    assert plan.steps_per_epoch == 12
    plan = plan.model_copy(update={"evaluation_batch_size": 4})
    return attempt.model_copy(update={"inspection": report, "plan": plan})


def test_a_killed_training_on_weighted_data_sets_goes_on_bit_for_bit(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    def run(name: str, *probes: str, output: str = "out", number: int = 1) -> CaseResult:
        attempt = attempt_of(tiny_model, tmp_path, output=output, number=number)
        places = {"FINETUNE_TEST_OUTPUT": str(tmp_path / output)}
        return ranks.run(attempt, tmp_path / name, probes=probes, environment=places)

    whole = run("whole", output="undisturbed")
    assert whole.statuses == (0,), whole.log()
    evaluated = [event.step for event in whole.events if isinstance(event, EvaluationEvent)]
    assert evaluated == [10, STEPS]

    killed, resumed = run("killed", "KILL-STEP:0:16"), run("resumed", number=2)

    assert killed.statuses == (-9,), killed.log()
    assert resumed.statuses == (0,), resumed.log()
    (resume,) = (event.step for event in resumed.events if isinstance(event, ResumeEvent))
    assert resume == 16
    assert resumed.losses == {step: whole.losses[step] for step in range(resume + 1, STEPS + 1)}
