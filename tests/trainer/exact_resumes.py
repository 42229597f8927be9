"""What every objective's test says of a run that is stopped: it goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.testing_ranks import CaseResult, RankServer


def assert_resumes_exactly(
    ranks: RankServer, attempt: Callable[[str], AttemptFile], folder: Path, *, stopped_rank: int
) -> tuple[CaseResult, CaseResult, CaseResult]:
    """Train undisturbed, and again with SIGTERM to a rank after step 2; `attempt` takes the output folder's name.

    Losses before and after the stop must be those of the undisturbed run, bit for bit. Returns what was undisturbed, stopped and resumed.
    """
    undisturbed = ranks.run(attempt("undisturbed"), folder / "run")
    stopped = ranks.run(attempt("out"), folder / "stopped", probes=(f"TERM:{stopped_rank}:2",))
    resumed = ranks.run(attempt("out"), folder / "resumed")

    assert set(resumed.statuses) == {0}, resumed.log()
    assert 0 < len(stopped.losses) < len(undisturbed.losses) == attempt("out").plan.total_steps
    assert {**stopped.losses, **resumed.losses} == undisturbed.losses
    return undisturbed, stopped, resumed
