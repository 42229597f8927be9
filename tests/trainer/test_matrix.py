"""Every combination of objective, method and strategy that the API allows is trained: the matrix of docs/reference/objectives.md (make matrix).

Not a part of `make test`, which trains the ticked ones more closely: about two hundred runs of real ranks take half an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.api.compatibility import LABELLING, ONLINE, PAIRING, PREFERENCES, Method, Objective, Strategy
from finetune_operator.api.impossible import impossibility
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.testing import (
    arithmetic_rows,
    judged_rows,
    preference_rows,
    tiny_attempt,
    tiny_plan,
    write_rows,
)
from finetune_trainer.testing_encoders import encoder_attempt, text_rows, word_rows
from finetune_trainer.testing_online import SUMS
from finetune_trainer.testing_pairs import pair_attempt, scored_rows
from finetune_trainer.testing_ranks import RankServer

ROWS, STEPS, BATCH, RATE = 24, 3, 4, 1e-3
ALLOWED: Final = [
    (objective, method, strategy)
    for objective in Objective
    for method in Method
    for strategy in Strategy
    if not any(impossibility(method, strategy, kind, objective=objective) for kind in ("cpu", "gpu"))
]
ROWS_OF: Final[dict[Objective, Callable[[], list[dict[str, Any]]]]] = {
    **dict.fromkeys((Objective.SFT, Objective.DISTILL), lambda: arithmetic_rows(ROWS)),
    Objective.PRETRAIN: lambda: [{"text": row["messages"][1]["content"]} for row in arithmetic_rows(ROWS)],
    Objective.DPO: lambda: preference_rows(ROWS),
    Objective.ORPO: lambda: preference_rows(ROWS),
    Objective.REWARD: lambda: preference_rows(ROWS),
    Objective.KTO: lambda: judged_rows(ROWS),
    Objective.CLASSIFICATION: lambda: text_rows(ROWS),
    Objective.TOKEN_CLASSIFICATION: lambda: word_rows(ROWS),
    **dict.fromkeys(PAIRING, lambda: scored_rows(ROWS)),
    **dict.fromkeys(ONLINE, lambda: list(SUMS[:ROWS])),
}
FLOAT32, FOUR_BITS = 1e-4, 5e-3
"""Largest difference of a loss between one process and several: of float32 sums, and of steps in bfloat16 beside 4-bit weights."""
Losses = Callable[[Objective, Method, Strategy], dict[int, float]]


def test_every_objective_has_rows_for_the_matrix() -> None:
    assert set(ROWS_OF) == set(Objective)


@pytest.fixture(scope="module")
def losses(ranks: RankServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Return what a combination's steps lose; each is trained once."""
    known: dict[tuple[Objective, Method, Strategy], dict[int, float]] = {}
    encoder = tmp_path_factory.mktemp("encoder")
    texts = [row["text"] for row in text_rows(ROWS)] + [" ".join(row["tokens"]) for row in word_rows(ROWS)]
    ranks.call(
        "finetune_trainer.testing_encoders:write_tiny_encoder", folder=str(encoder), texts=texts, kind="distilbert"
    )

    def train(objective: Objective, method: Method, strategy: Strategy) -> dict[int, float]:
        key = objective, method, strategy
        if key not in known:
            folder = tmp_path_factory.mktemp("-".join(key))
            model = encoder if objective in (*LABELLING, *PAIRING) else tiny_model
            result = ranks.run(attempt(model, folder, *key), folder / "run")
            assert set(result.statuses) == {0}, result.log()
            known[key] = result.losses
        return known[key]

    return train


def attempt(model: Path, folder: Path, objective: Objective, method: Method, strategy: Strategy) -> AttemptFile:
    rows = ROWS_OF[objective]()
    data = write_rows(folder / "rows.jsonl", rows)
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy,
        processes=processes,
        micro_batch_size=BATCH // processes,
        total_steps=STEPS,
        rows=ROWS,
        precomputed_reference=objective is Objective.DPO and method is Method.FULL,
    )
    training: dict[str, Any] = {"precision": "bf16" if method is Method.QLORA else "fp32"}
    if objective is Objective.DISTILL:
        training |= {"distill": {"teacher": {"uri": f"file://{model}"}, "temperature": 2.0}}  # as it was before
    if objective in ONLINE:
        rewards = [{"verifier": "numeric-closeness"}]
        block = {"rewards": rewards, "generations": 2, "maxCompletionLength": 4, "beta": 0}
        training |= {"globalBatchSize": BATCH, "maxLength": 128, objective.value: block}
    if objective in (*LABELLING, *PAIRING):
        given: dict[str, Any] = {"objective": objective, "plan": plan, "learning_rate": RATE}
        given |= {"tuning": {"method": method}, "training": training}
        if objective in LABELLING:
            return encoder_attempt(model, data, rows, folder / "out", **given)
        return pair_attempt(model, data, rows, folder / "out", layout="scored-pair", **given)
    return tiny_attempt(
        model,
        data,
        folder / "out",
        plan=plan,
        metrics_port=0,
        objective=objective,
        tuning={"method": method},
        training={"learningRate": RATE, **training},
    )


@pytest.mark.matrix
@pytest.mark.parametrize(("objective", "method", "strategy"), ALLOWED)
def test_several_ranks_have_the_losses_of_one(
    objective: Objective, method: Method, strategy: Strategy, losses: Losses
) -> None:
    several = losses(objective, method, strategy)
    assert sorted(several) == list(range(1, STEPS + 1))
    if objective in ONLINE:
        return  # each process draws answers of its own
    if objective is Objective.KTO:
        return  # its loss depends on which rows a process holds together: answers are compared with others of the micro-batch
    one = losses(objective, method, Strategy.SINGLE)
    assert several == pytest.approx(one, abs=FOUR_BITS if method is Method.QLORA else FLOAT32)
    assert objective in PREFERENCES or len(set(one.values())) == STEPS
