"""The reference pages that are generated from the tables, so that they cannot lie.

python -m finetune_operator.jobs.reference docs/reference     write conditions.md, exit-codes.md, methods.md, objectives.md and strategies.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from finetune_operator.api.compatibility import (
    NOT_OFFERED,
    OFFLOADS,
    STRATEGY_MEANINGS,
    ZERO_STAGES,
    Strategy,
    resume_obstacle,
)
from finetune_operator.api.exit_codes import EXIT_MEANINGS, ExitCode, ExitMeaning
from finetune_operator.api.impossible import IMPOSSIBLE, Impossible, impossibility
from finetune_operator.api.methods import IA3_TARGETS, METHOD_MEANINGS, OPTIMIZER_MEANINGS, Method, Optimizer
from finetune_operator.api.reasons import REASON_MEANINGS, ConditionType, JobState
from finetune_operator.jobs import objectives_page as objectives
from finetune_operator.jobs.conditions import REASONS_OF
from finetune_operator.jobs.retry import Cause, GiveUp, Retry, judge
from finetune_operator.planner.host_replan import GROWTH, MOST_HOST_REPLANS
from finetune_operator.planner.replan import MOST_REPLANS

GENERATED: Final = "<!-- Generated: python -m finetune_operator.jobs.reference docs/reference -->"

CONDITION_MEANINGS: Final = {
    ConditionType.ACCEPTED: "The spec is valid, and no name of a child is taken by an object of someone else.",
    ConditionType.INSPECTED: "Model and data set were read and are usable. Unknown while the inspect pod works.",
    ConditionType.PLANNED: "There is a plan; `status.plan` shows it before any GPU is taken.",
    ConditionType.PODS_SCHEDULED: "Every training pod has a node; else the message has the scheduler's words.",
    ConditionType.RUNNING: "The current attempt has made its first step.",
    ConditionType.PUBLISHED: "The finished model is at `output.uri`, its manifest written last.",
    ConditionType.COMPLETE: "The job is done. Terminal.",
    ConditionType.FAILED: "The job has failed for good. Terminal; delete it and create it anew.",
    ConditionType.SUSPENDED: "`run.suspend` is true.",
    ConditionType.STALLED: "The job waits for what does not move by itself. It is tried again all the same.",
    ConditionType.DEGRADED: "The job goes on, but something was worked around.",
}
STATE_MEANINGS: Final = {
    JobState.PENDING: "not begun, refused, or without a plan: see `status.message`",
    JobState.INSPECTING: "a CPU pod reads model and data",
    JobState.PLANNED: "the plan is made, the first attempt's pods are being created",
    JobState.STARTING: "an attempt's pods are created, scheduled, started, or replaced after a failure",
    JobState.RUNNING: "steps are being made",
    JobState.PUBLISHING: "the training is done, its result is being published",
    JobState.SUSPENDED: "`run.suspend` is true",
    JobState.COMPLETE: "the model is published",
    JobState.FAILED: "failed for good",
}


def conditions_page() -> str:
    """Return docs/reference/conditions.md."""
    types = ((f"`{kind}`", CONDITION_MEANINGS[kind], _listed(REASONS_OF[kind])) for kind in ConditionType)
    reasons = ((f"`{reason}`", row.meaning, row.remedy) for reason, row in REASON_MEANINGS.items())
    states = ((f"`{state}`", STATE_MEANINGS[state]) for state in JobState)
    return "\n".join(
        (
            "# Conditions and reasons",
            "",
            GENERATED,
            "",
            "Types and reasons are API: programs may rely on them. Messages are for people.",
            "`kubectl wait --for=condition=Complete ftj/NAME` waits for the end;",
            "`kubectl get ftj NAME -o jsonpath='{.status.message}'` answers why a job does not run now.",
            "",
            "## Condition types",
            "",
            *_table(("type", "true means", "reasons"), types),
            "",
            "## Reasons",
            "",
            *_table(("reason", "what has happened", "what to do"), reasons),
            "",
            "## States",
            "",
            "`status.state` is derived from the conditions, for people and print columns only.",
            "",
            *_table(("state", "meaning"), states),
            "",
        )
    )


def exit_codes_page() -> str:
    """Return docs/reference/exit-codes.md."""
    rows = (
        (f"{int(code)}", f"`{code.name}`", f"`{row.reason}`", row.meaning, _after(code, row))
        for code, row in EXIT_MEANINGS.items()
    )
    return "\n".join(
        (
            "# Exit codes",
            "",
            GENERATED,
            "",
            "How a container of a job ends is an API between pods and operator.",
            "One JSON line in `/dev/termination-log` says more; the code alone is enough.",
            "137 is `HostOutOfMemory` when the kubelet says OOMKilled, else `RankKilled`. A code that is not in the table counts as 1.",
            "",
            *_table(("code", "name", "reason", "meaning", "then"), rows),
            "",
            "- A pod that Kubernetes took away (condition DisruptionTarget) is `Disrupted`: tried again, not charged, unless its code is "
            "40 to 47, 50 or 51.",
            "- Charged attempts count against `run.retries`; the others are followed by another attempt in any case.",
            "- The first failure is followed at once. Several in a row that fail within two minutes, and no later in the",
            "  training than the one before, are followed after 10, 20, 40 … 300 s.",
            f"- After `GPUOutOfMemory` the job is planned anew with what was measured, up to {MOST_REPLANS} times; it ends when no plan is smaller.",
            f"- After `HostOutOfMemory` every pod asks for {GROWTH - 1:.0%} more host memory, up to {MOST_HOST_REPLANS} times and as far as nodes",
            "  and quotas have it; in a cluster it is not charged.",
            "- In the inspect and publish pods 40 and 41 are final, and every other code is tried again without end.",
            "",
        )
    )


def strategies_page() -> str:
    """Return docs/reference/strategies.md."""
    methods = tuple(Method)
    rows = (
        (
            f"`{strategy}`",
            STRATEGY_MEANINGS[strategy],
            ", ".join(f"`{method}`" for method in methods if impossibility(method, strategy, "gpu") is None),
            ", ".join(f"`{offload}`" for offload in OFFLOADS.get(strategy, ())) or "nothing",
            _resumed_by_another_number(strategy),
        )
        for strategy in Strategy
    )
    return "\n".join(
        (
            "# Strategies",
            "",
            GENERATED,
            "",
            "How states are spread over processes (`resources.strategy`; `auto` lets the planner choose), and what can live in host memory or, with",
            "`nvme`, on local disk (`resources.offload`; `auto` takes host memory, only where nothing else fits; with `qlora` nothing, `nvme` with",
            "`full` alone: [explanation](../explanation/planning.md#local-disk)). API server, planner and trainer refuse by the tables from which",
            "this page is made (`api/compatibility.py`, `api/impossible.py`).",
            "Every rank checks at its start that it is wrapped and sharded as planned.",
            "",
            *_table(
                ("strategy", "what it does", "methods", "can offload", "resume with another number of processes"), rows
            ),
            "",
            "## Combinations that do not work",
            "",
            *_table(
                ("method", "optimizer", "strategy", "accelerator", "checkpointing", "why", "instead"),
                _impossible_rows(),
            ),
            "",
            "## Not offered",
            "",
            *_table(("what", "why"), NOT_OFFERED.items()),
            "",
        )
    )


def _impossible_rows() -> Iterator[tuple[str, ...]]:
    """Rows of the table, those that differ in strategy and optimizer alone in one."""
    groups: dict[tuple[str, ...], list[Impossible]] = {}
    for row in IMPOSSIBLE:
        groups.setdefault(
            (row.method or "any", row.accelerator or "any", row.checkpointing or "any", row.why, row.remedy), []
        ).append(row)
    for (method, accelerator, checkpointing, why, remedy), rows in groups.items():
        yield (
            f"`{method}`",
            _listed(dict.fromkeys(row.optimizer or "any" for row in rows)),
            _listed(dict.fromkeys(row.strategy or "any" for row in rows)),
            accelerator,
            f"`{checkpointing}`",
            why,
            remedy,
        )


def methods_page() -> str:
    """Return docs/reference/methods.md."""

    def mark(method: Method, strategy: Strategy, optimizer: Optimizer = Optimizer.ADAMW) -> str:
        return "–" if impossibility(method, strategy, "gpu", optimizer) else "✓"

    strategies = tuple(Strategy)
    head = tuple(f"`{strategy}`" for strategy in strategies)
    methods = (
        (f"`{method}`", METHOD_MEANINGS[method], *(mark(method, strategy) for strategy in strategies))
        for method in Method
    )
    optimizers = (
        (
            f"`{optimizer}`",
            OPTIMIZER_MEANINGS[optimizer],
            *(mark(Method.LORA, strategy, optimizer) for strategy in strategies),
        )
        for optimizer in Optimizer
    )
    return "\n".join(
        (
            "# Methods and optimizers",
            "",
            GENERATED,
            "",
            "What a job trains (`tuning.method`) and what steps it (`training.optimizer`), by the strategies that they go with",
            "(`resources.strategy`). Each – is refused by API server and planner, with the reason in",
            "[strategies.md](strategies.md#combinations-that-do-not-work).",
            "",
            "## Methods",
            "",
            *_table(("method", "what is trained", *head), methods),
            "",
            "- `full`, `freeze` and `spectrum` publish a whole model, the others an adapter and, with `output.merge`, the merged model.",
            "- `freeze` and `spectrum` keep what they train in float32 and the rest in bfloat16 (`training.precision: bf16`). Their",
            "  checkpoints have the frozen weights too. A head that is the input embedding as well stays frozen.",
            "- `spectrum` compares linear layers of one name and shape by the signal-to-noise ratio of their singular values",
            "  ([arXiv 2406.06623](https://arxiv.org/abs/2406.06623); the noise ends where Marchenko-Pastur's law ends). Rank 0 computes the",
            "  ratios before the first attempt's first step and writes them to the job's checkpoint folder",
            "  (`spectrum-<digest of the model>.json`): later attempts train the same layers. Embeddings, norms, the head and stacked experts",
            "  stay frozen.",
            "- `prompt` and `prefix` publish the adapter alone, since virtual tokens cannot be merged, and rows are not packed behind them.",
            f"- `ia3` is known for models of the types {', '.join(sorted(IA3_TARGETS))}; the planner refuses others.",
            "- Bottleneck adapters (Houlsby's) are not offered: PEFT 0.21 has none, and the `adapters` library is tied to transformers 4.",
            "- With `qlora` the merged model has the 4-bit weights, widened to 16 bits, that the adapter was trained beside.",
            "",
            "## Optimizers",
            "",
            *_table(("optimizer", "what it is", *head), optimizers),
            "",
            "Checkpoints have the optimizer's whole state: a resumed run makes the same steps. The optimizer cannot change once a job has started.",
            "",
        )
    )


def _resumed_by_another_number(strategy: Strategy) -> str:
    obstacle = resume_obstacle(strategy, 2, strategy, 4)
    if obstacle is not None:
        return f"refused: {obstacle.partition('; ')[2]}"
    return "by DeepSpeed's universal checkpoint" if strategy in ZERO_STAGES else "goes on"


def _after(code: ExitCode, row: ExitMeaning) -> str:
    if code is ExitCode.OK:
        return "the next stage"
    cause = Cause(row.reason, "", int(code), retry=row.retry, charged=row.charged)
    verdict = judge(cause, charged=0, retries=1)
    if isinstance(verdict, GiveUp):
        return "the job ends"
    if isinstance(verdict, Retry) and verdict.replan:
        return "planned anew, tried again, not charged"
    return "tried again, charged" if row.charged else "tried again, not charged"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def main(arguments: Sequence[str]) -> int:
    """Write the pages into the folder that is named."""
    if len(arguments) != 1:
        print("usage: python -m finetune_operator.jobs.reference FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conditions.md").write_text(conditions_page())
    (folder / "exit-codes.md").write_text(exit_codes_page())
    (folder / "strategies.md").write_text(strategies_page())
    (folder / "methods.md").write_text(methods_page())
    (folder / objectives.FILE_NAME).write_text(objectives.objectives_page(GENERATED))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
