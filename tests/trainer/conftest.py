"""One process that has imported the training stack, and one tiny model, for all tests that run ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.plan import AttemptFile, Plan
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, write_rows
from finetune_trainer.testing_ranks import RankServer

MakeAttempt = Callable[..., AttemptFile]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first tests of ranks the time that imports take, and the compiling of DeepSpeed's operator."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankServer]:
    with RankServer() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", arithmetic_rows(64))


@pytest.fixture(scope="session")
def tiny_model(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ranks.call("finetune_trainer.testing:write_tiny_model", folder=str(folder), rows=arithmetic_rows(64))
    return folder


@pytest.fixture
def make_attempt(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> MakeAttempt:
    """An attempt whose output is `out` below the test's folder; losses fall fast enough to tell steps apart."""

    def make(plan: Plan, *, output: str = "out", attempt: int = 1, **spec: Any) -> AttemptFile:
        spec["training"] = {"learningRate": 1e-2, "precision": "fp32", **spec.get("training", {})}
        return tiny_attempt(
            tiny_model, tiny_data, tmp_path / output, plan=plan, attempt=attempt, metrics_port=0, **spec
        )

    return make


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFile:
    """An attempt whose model has no weights, for what never loads it."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text("{}")
    return tiny_attempt(model, write_rows(tmp_path / "rows.jsonl", arithmetic_rows(4)), tmp_path / "out")
