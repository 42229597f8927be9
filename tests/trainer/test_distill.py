"""Objective distill: a tiny student and a teacher that a job has made, losses of TRL's own loss on whole logits, and the way to a published model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.trainer.exact_resumes import assert_resumes_exactly

from finetune_operator.api.compatibility import Checkpointing, Method, Objective, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.run_events import EvaluationEvent, StepEvent
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan
from finetune_trainer.testing_distillation import FAMILIES, distill_attempt
from finetune_trainer.testing_ranks import CaseResult, RankServer

STEPS, BATCH, ROWS = 4, 8, 64
HARDER: Final = {"temperature": 2.0, "crossEntropyWeight": 0.25}
TUNING: Final = {Method.FULL: {"method": "full"}, Method.LORA: {"method": "lora", "lora": {"rank": 8}}}
Attempts = Callable[..., AttemptFile]


@pytest.fixture(scope="module")
def teacher(ranks: RankServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A larger model that has learned the rows, as its job has published it."""
    folder = tmp_path_factory.mktemp("teacher")
    larger = {"folder": str(folder / "model"), "rows": arithmetic_rows(ROWS), "hidden": 96, "layers": 3}
    ranks.call("finetune_trainer.testing:write_tiny_model", **larger)
    plan = tiny_plan(micro_batch_size=8, total_steps=40, rows=ROWS)
    training = {"learningRate": 1e-2, "precision": "fp32"}
    sft = {"plan": plan, "metrics_port": 0, "tuning": {"method": "full"}, "training": training}
    result = ranks.run(tiny_attempt(folder / "model", tiny_data, folder / "out", **sft), folder / "run")
    assert result.statuses == (0,), result.log()
    assert ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(folder / "run"))["code"] == 0
    return folder / "out"


@pytest.fixture
def distill(tiny_model: Path, tiny_data: Path, teacher: Path, tmp_path: Path) -> Attempts:
    def make(method: Method = Method.FULL, *, output: str = "out", **more: Any) -> AttemptFile:
        plan = more.pop("plan", tiny_plan(micro_batch_size=BATCH, total_steps=STEPS, rows=ROWS))
        more = {"teacher": teacher, "plan": plan, "tuning": TUNING[method], **more}
        return distill_attempt(tiny_model, tiny_data, tmp_path / output, **more)

    return make


def divergences(result: CaseResult) -> dict[int, float]:
    return {event.step: event.measures["teacher_kl"] for event in result.events if isinstance(event, StepEvent)}


@pytest.fixture(scope="module")
def one_process(
    ranks: RankServer, tiny_model: Path, tiny_data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Method, CaseResult]:
    found = {}
    for method, tuning in TUNING.items():
        folder, plan = tmp_path_factory.mktemp(method), tiny_plan(micro_batch_size=BATCH, total_steps=STEPS, rows=ROWS)
        wanted = {"teacher": teacher, "plan": plan, "tuning": tuning, "distill": HARDER}
        found[method] = ranks.run(distill_attempt(tiny_model, tiny_data, folder / "out", **wanted), folder / "run")
    return found


def test_losses_and_divergences_are_those_of_trls_own_loss_on_whole_logits(
    ranks: RankServer, one_process: dict[Method, CaseResult], tiny_model: Path, teacher: Path
) -> None:
    ours = one_process[Method.FULL]
    assert ours.statuses == (0,), ours.log()
    plan = str(ours.folder / "plan.json")
    call = "finetune_trainer.testing_distillation:plain_losses"
    plain = ranks.call(call, plan=plan, model=str(tiny_model), teacher=str(teacher))
    assert list(ours.losses.values()) == pytest.approx([loss for loss, _ in plain], abs=1e-4)
    assert list(divergences(ours).values()) == pytest.approx([divergence for _, divergence in plain], abs=1e-4)


@pytest.mark.parametrize(
    "method", sorted(method for method, strategy in PROVEN[Objective.DISTILL] if strategy is Strategy.DDP)
)
def test_two_ranks_that_accumulate_have_the_losses_of_one_whole_batch(
    method: Method, ranks: RankServer, distill: Attempts, one_process: dict[Method, CaseResult], tmp_path: Path
) -> None:
    split = {"strategy": Strategy.DDP, "processes": 2, "micro_batch_size": 2, "gradient_accumulation": 2}
    plan = tiny_plan(**split, total_steps=STEPS, rows=ROWS, gradient_checkpointing=Checkpointing.FULL)
    result = ranks.run(distill(method, plan=plan, distill=HARDER), tmp_path / "run")
    assert set(result.statuses) == {0}, result.log()
    assert result.losses == pytest.approx(one_process[method].losses, abs=1e-4)
    assert divergences(result) == pytest.approx(divergences(one_process[method]), abs=1e-4)


def test_a_student_comes_closer_to_its_teacher_and_is_published_with_its_name(
    ranks: RankServer, distill: Attempts, teacher: Path, tmp_path: Path
) -> None:
    held_out = {"dataset": {"split": {"evaluation": 0.2}}, "evaluation": {"every": 1}}
    plan = tiny_plan(micro_batch_size=8, total_steps=30, rows=ROWS)
    attempt = distill(plan=plan, **held_out, training={"precision": "bf16"})
    result = ranks.run(attempt, tmp_path / "run")
    assert result.statuses == (0,), result.log()
    assert divergences(result)[30] < divergences(result)[1] / 2
    found = [event.measures for event in result.events if isinstance(event, EvaluationEvent)]
    assert found[-1]["teacher_kl"] < found[0]["teacher_kl"] / 2

    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))

    assert answer["code"] == 0, answer
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| teacher | `file://{teacher}`" in card
    assert "| teacher made by | job default/tiny (sft, full) after step " in card
    assert "teacher 0.5, temperature 1 |" in card


def test_a_run_that_was_stopped_goes_on_bit_for_bit(ranks: RankServer, distill: Attempts, tmp_path: Path) -> None:
    plan = tiny_plan(
        strategy=Strategy.DDP, processes=2, micro_batch_size=2, total_steps=6, rows=ROWS, max_length=256, packed=True
    )
    settings: Any = {"plan": plan, "tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}}}

    def attempt(output: str) -> AttemptFile:
        return distill(Method.LORA, output=output, **settings)

    undisturbed, stopped, resumed = assert_resumes_exactly(ranks, attempt, tmp_path, stopped_rank=1)
    assert {**divergences(stopped), **divergences(resumed)} == divergences(undisturbed)


def test_vocabularies_that_are_padded_differently_are_compared_by_the_words_of_both(
    ranks: RankServer, distill: Attempts, teacher: Path, one_process: dict[Method, CaseResult], tmp_path: Path
) -> None:
    call = "finetune_trainer.testing_distillation:with_more_words"
    ranks.call(call, folder=str(tmp_path / "padded"), model=str(teacher), words=32)
    result = ranks.run(distill(teacher=tmp_path / "padded", distill=HARDER), tmp_path / "run")
    assert result.statuses == (0,), result.log()
    assert result.losses == pytest.approx(one_process[Method.FULL].losses, abs=1e-4)


def test_logits_that_a_family_scales_or_caps_are_compared_as_it_makes_them(ranks: RankServer) -> None:
    found = ranks.call("finetune_trainer.testing_distillation:outputs_of_families")
    assert found.pop("unknown").startswith("training.distill.teacher.uri: this model (llama) does more to its logits")
    assert found == dict.fromkeys(FAMILIES, "equal")


def test_a_teacher_that_has_changed_since_the_inspection_ends_the_run(
    ranks: RankServer, distill: Attempts, tmp_path: Path
) -> None:
    attempt = distill()
    assert attempt.inspection.teacher is not None
    other = attempt.inspection.teacher.files[0].model_copy(update={"size": 7})
    facts = attempt.inspection.teacher.model_copy(update={"files": (other,)})
    changed = attempt.inspection.model_copy(update={"teacher": facts})
    result = ranks.run(attempt.model_copy(update={"inspection": changed}), tmp_path / "run")
    assert result.statuses == (ExitCode.INPUTS_CHANGED,)
    assert "the teacher changed after the inspection" in result.log()
