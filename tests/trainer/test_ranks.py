"""What ranks really do, on CPUs with gloo: sharding, equal losses, kills and resumes, ends of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import ZERO_STAGES, Checkpointing, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import Plan
from finetune_operator.api.run_events import CheckpointEvent, MemoryEvent
from finetune_trainer.network import COLLECTIVE_SECONDS
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_ranks import RankServer

SHARDED = (Strategy.FSDP, Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3)
DISTRIBUTED = (Strategy.DDP, *SHARDED)
FULL = {"tuning": {"method": "full"}}
DROPOUT = {"tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}}}


def plan_for(strategy: Strategy, **settings: Any) -> Plan:
    """A plan with a global batch of 4 sequences, whatever the strategy."""
    processes = 1 if strategy is Strategy.SINGLE else 2
    return tiny_plan(strategy=strategy, processes=processes, micro_batch_size=4 // processes, **settings)


def checkpoints(output: Path) -> list[Path]:
    """The folders of committed checkpoints, oldest first."""
    return sorted(path.parent for path in output.glob("checkpoints/*/step-*/*/manifest.json"))


@pytest.fixture(scope="module")
def reference_losses(
    ranks: RankServer, tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    from finetune_trainer.testing import tiny_attempt

    folder = tmp_path_factory.mktemp("reference")
    plan = tiny_plan(micro_batch_size=2, gradient_accumulation=2, total_steps=4)
    attempt = tiny_attempt(
        tiny_model,
        tiny_data,
        folder / "out",
        plan=plan,
        metrics_port=0,
        training={"learningRate": 1e-2, "precision": "fp32"},
        **FULL,
    )
    return ranks.run(attempt, folder / "run").losses


@pytest.mark.parametrize("strategy", DISTRIBUTED)
def test_two_ranks_have_the_losses_of_one_process_that_accumulates(
    strategy: Strategy, ranks: RankServer, make_attempt: Any, tmp_path: Path, reference_losses: dict[int, float]
) -> None:
    result = ranks.run(make_attempt(plan_for(strategy, total_steps=4), **FULL), tmp_path / "run", probes=("shapes",))

    assert result.statuses == (0, 0), result.log()
    assert result.losses == pytest.approx(reference_losses, abs=1e-4)
    one, other = result.probe("shapes", 0), result.probe("shapes", 1)
    assert one["patience"] == other["patience"] == COLLECTIVE_SECONDS
    if strategy is Strategy.DDP:
        assert one["gradients"] == other["gradients"]
        assert one["local_parameters"] == one["local_gradients"] == one["local_moments"] == one["whole_parameters"]
    if strategy is Strategy.FSDP:
        for what in ("local_parameters", "local_gradients", "local_moments"):
            assert one[what] + other[what] == one["whole_parameters"]
            assert one[what] <= 0.51 * one["whole_parameters"]
    if strategy in ZERO_STAGES:
        # ZeRO-3 shards every parameter; norms stay gathered beside their shards.
        share = 0.51 if strategy is Strategy.ZERO3 else 1.0
        assert one["local_parameters"] == other["local_parameters"] <= share * one["whole_parameters"]
        assert one["local_moments"] + other["local_moments"] == one["whole_parameters"]
        assert one["local_moments"] <= 0.51 * one["whole_parameters"]


def test_gradients_that_wait_for_other_micro_batches_are_sharded_too(
    ranks: RankServer, make_attempt: Any, tmp_path: Path, reference_losses: dict[int, float]
) -> None:
    plan = tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=1, gradient_accumulation=2, total_steps=4)
    result = ranks.run(make_attempt(plan, **FULL), tmp_path / "run", probes=("shapes",))

    assert result.statuses == (0, 0), result.log()
    assert result.losses == pytest.approx(reference_losses, abs=1e-4)
    one, other = result.probe("shapes", 0), result.probe("shapes", 1)
    assert one["accumulated_gradients"] + other["accumulated_gradients"] == one["whole_parameters"]
    assert one["accumulated_gradients"] <= 0.51 * one["whole_parameters"]


def test_a_damaged_newest_checkpoint_is_skipped_and_the_one_before_is_used(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"checkpoint": {"every": "2steps", "keep": 3}}
    plan = plan_for(Strategy.SINGLE, total_steps=6)
    first = ranks.run(make_attempt(plan, **settings), tmp_path / "first")
    assert first.statuses == (0,), first.log()
    newest = checkpoints(tmp_path / "out")[-1]
    weights = newest / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    second = ranks.run(make_attempt(plan, attempt=2, **settings), tmp_path / "second")

    assert second.statuses == (0,), second.log()
    rejected = [event for event in second.events if isinstance(event, CheckpointEvent) and not event.verified]
    assert [event.step for event in rejected] == [6]
    assert "SHA-256" in rejected[0].problem
    assert 3 <= min(second.losses) <= 6
    assert second.losses == {step: first.losses[step] for step in range(min(second.losses), 7)}
    assert [path.parent.name for path in checkpoints(tmp_path / "out")][-1] == "step-00000006"


def test_a_run_whose_checkpoints_are_all_unusable_fails_and_starts_nothing_over_them(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    plan = plan_for(Strategy.SINGLE, total_steps=2)
    ranks.run(make_attempt(plan), tmp_path / "first")
    path = checkpoints(tmp_path / "out")[-1] / "manifest.json"
    foreign = Manifest.model_validate_json(path.read_text()).model_copy(update={"uid": "another"})
    path.write_text(foreign.model_dump_json(by_alias=True))

    second = ranks.run(make_attempt(plan, attempt=2), tmp_path / "second")

    (error,) = second.run.errors()
    assert second.statuses == (ExitCode.CHECKPOINTS_UNUSABLE,)
    assert "belongs to another job" in error.message
    assert second.losses == {}
    assert checkpoints(tmp_path / "out") == [path.parent]


def test_only_the_newest_checkpoints_are_kept(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    attempt = make_attempt(plan_for(Strategy.SINGLE, total_steps=7), checkpoint={"every": "1steps", "keep": 2})

    result = ranks.run(attempt, tmp_path / "run")

    assert result.statuses == (0,), result.log()
    kept = [path.parent.name for path in checkpoints(tmp_path / "out")]
    written = [event.step for event in result.events if isinstance(event, CheckpointEvent)]
    assert kept == [f"step-{step:08d}" for step in written[-2:]]
    assert kept[-1] == "step-00000007"


@pytest.mark.parametrize(("blocked", "code"), [(2, ExitCode.OK), (4, ExitCode.STORAGE_DOWN)])
def test_only_a_last_checkpoint_that_cannot_be_saved_fails_the_run(
    blocked: int, code: ExitCode, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(plan_for(Strategy.DDP, total_steps=4), checkpoint={"every": "2steps", "keep": 5})
    in_the_way = Path(attempt.checkpoint_uri.removeprefix("file://")) / f"step-{blocked:08d}"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should go")

    result = ranks.run(attempt, tmp_path / "run", upload_seconds=1.0)

    assert result.statuses == (code, code), result.log()
    assert [path.parent.name for path in checkpoints(tmp_path / "out")] == [f"step-{6 - blocked:08d}"]


@pytest.mark.parametrize("strategy", [Strategy.DDP, Strategy.FSDP])
def test_sigterm_on_one_rank_saves_and_stops_all_at_the_same_step(
    strategy: Strategy, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    plan = plan_for(strategy, total_steps=6)
    undisturbed = ranks.run(make_attempt(plan, output="undisturbed"), tmp_path / "run")
    stopped = ranks.run(make_attempt(plan), tmp_path / "stopped", probes=("TERM:1:2",))
    resumed = ranks.run(make_attempt(plan), tmp_path / "resumed")  # the same attempt again, as after a suspend

    assert stopped.statuses == (ExitCode.TERMINATED, ExitCode.TERMINATED), stopped.log()
    last = max(stopped.losses)
    assert {error.message for error in stopped.run.errors()} == {
        f"stopped from outside after step {last}, which was saved; it goes on from there"
    }
    assert resumed.statuses == (0, 0), resumed.log()
    assert {**stopped.losses, **resumed.losses} == undisturbed.losses
    assert min(resumed.losses) == last + 1


@pytest.mark.parametrize(
    ("probe", "code"),
    [
        ("poison:3", ExitCode.DIVERGED),
        ("exhaust:0:2", ExitCode.GPU_OUT_OF_MEMORY),
        ("raise:0:2:bug", ExitCode.BUG),
    ],
)
def test_a_failing_run_ends_with_its_own_exit_code(
    probe: str, code: ExitCode, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    result = ranks.run(make_attempt(plan_for(Strategy.SINGLE, total_steps=4)), tmp_path / "run", probes=(probe,))

    assert result.statuses == (code,)
    assert [error.exit_code for error in result.run.errors()] == [code]
    assert checkpoints(tmp_path / "out") == []


def test_the_text_of_an_unknown_error_is_told_nowhere(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    attempt = make_attempt(plan_for(Strategy.SINGLE, total_steps=4))

    result = ranks.run(attempt, tmp_path / "run", probes=("raise:0:2:bug",))

    (error,) = result.run.errors()
    assert error.message.startswith("ValueError at testing_probes.py:")
    assert "in on_step_end" in result.log()
    assert "SECRET" not in result.log() + error.model_dump_json()


def test_changed_data_ends_the_attempt_before_it_starts(
    ranks: RankServer, make_attempt: Any, tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    attempt = make_attempt(plan_for(Strategy.SINGLE))
    facts = attempt.inspection.dataset
    before = facts.files[0].model_copy(update={"size": facts.files[0].size + 1})
    inspection = attempt.inspection.model_copy(update={"dataset": facts.model_copy(update={"files": (before,)})})

    result = ranks.run(attempt.model_copy(update={"inspection": inspection}), tmp_path / "run")

    assert result.statuses == (ExitCode.INPUTS_CHANGED,)
    assert str(tiny_data) in result.run.errors()[0].message


def test_a_model_that_came_to_the_output_after_the_inspection_ends_the_attempt_before_it_starts(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(plan_for(Strategy.SINGLE))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")

    result = ranks.run(attempt, tmp_path / "run")

    assert result.statuses == (ExitCode.BAD_SPEC,)
    assert "output.ifExists" in result.run.errors()[0].message


def test_bad_rows_are_told_by_file_and_line_and_never_by_content(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    from finetune_trainer.testing import arithmetic_rows, tiny_attempt

    rows = arithmetic_rows(4)
    rows[2]["messages"][0]["role"] = "a secret role"
    data = write_rows(tmp_path / "rows.jsonl", rows)
    attempt = tiny_attempt(tiny_model, data, tmp_path / "out", plan=plan_for(Strategy.SINGLE), metrics_port=0)

    result = ranks.run(attempt, tmp_path / "run")

    assert result.statuses == (ExitCode.BAD_DATA,)
    assert "rows.jsonl line 3" in result.run.errors()[0].message
    assert "secret" not in result.log()


def test_the_log_has_no_row_content(ranks: RankServer, make_attempt: Any, tmp_path: Path, tiny_data: Path) -> None:
    result = ranks.run(make_attempt(plan_for(Strategy.SINGLE, total_steps=2)), tmp_path / "run")

    assert result.statuses == (0,)
    assert "apples" in tiny_data.read_text()
    assert not any(word in result.log() for word in ("apples", "books", "How many"))


def test_every_rank_tells_its_peak_memory(ranks: RankServer, make_attempt: Any, tmp_path: Path) -> None:
    plan = plan_for(Strategy.FSDP, total_steps=2, gradient_checkpointing=Checkpointing.FULL)

    result = ranks.run(make_attempt(plan, training={"precision": "bf16"}), tmp_path / "run")

    assert result.statuses == (0, 0), result.log()
    peaks = {event.rank: event.bytes for event in result.events if isinstance(event, MemoryEvent)}
    assert set(peaks) == {0, 1}
    assert min(peaks.values()) > 100 * 2**20
