"""Optimizer states on local disk: DeepSpeed's own way through files on CPU ranks, resumed bit for bit by ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testbed import packages

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.disk_operator import check_space
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer

GROUPS = "small-groups:300000"
"""Two of them of each rank are above 1 MiB, and so on disk; the norms stay in memory."""
MakeSwapped = Callable[..., AttemptFile]


@pytest.fixture(scope="module", autouse=True)
def libaio() -> None:
    packages.require(*packages.TRAINING)


@pytest.fixture(scope="module")
def model(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.4 million parameters: smaller ones stay in memory."""
    folder = tmp_path_factory.mktemp("model-to-swap")
    ranks.call("finetune_trainer.testing:write_tiny_model", folder=str(folder), rows=arithmetic_rows(64), hidden=256)
    return folder


@pytest.fixture
def swapped(model: Path, tiny_data: Path, tmp_path: Path) -> MakeSwapped:
    def make(output: str = "out", offload: Offload = Offload.NVME, attempt: int = 1) -> AttemptFile:
        several: dict[str, Any] = {"micro_batch_size": 1, "gradient_accumulation": 2}
        plan = tiny_plan(strategy=Strategy.ZERO3, processes=2, offload=offload, total_steps=5, **several)
        return tiny_attempt(
            model,
            tiny_data,
            tmp_path / output,
            plan=plan,
            attempt=attempt,
            metrics_port=0,
            training={"learningRate": 1e-2},
            tuning={"method": "full"},
            checkpoint={"every": "2steps"},
        )

    return make


def test_states_on_disk_change_no_loss_and_a_killed_run_goes_on_bit_for_bit(
    swapped: MakeSwapped, ranks: RankServer, tmp_path: Path
) -> None:
    def run(attempt: AttemptFile, name: str, *probes: str) -> CaseResult:
        return ranks.run(
            attempt,
            tmp_path / name,
            probes=(GROUPS, *probes),
            environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
        )

    in_memory = run(swapped("memory", Offload.OPTIMIZER), "memory")
    undisturbed = run(swapped("undisturbed"), "undisturbed")
    killed = run(swapped(), "killed", "KILL:1:4")
    resumed = run(swapped(attempt=2), "resumed")

    assert undisturbed.statuses == (0, 0), undisturbed.log()
    assert undisturbed.losses == in_memory.losses
    assert "687104 of them on local disk" in undisturbed.log()
    assert -9 in killed.statuses
    assert resumed.statuses == (0, 0), resumed.log()
    assert min(resumed.losses) > 2
    assert resumed.losses == {step: undisturbed.losses[step] for step in resumed.losses}
    manifests = [Manifest.model_validate_json(path.read_text()) for path in tmp_path.glob("out/**/manifest.json")]
    for manifest in manifests:
        assert manifest.offload == Offload.NVME
        # A master and two moments of each of two groups of each of two ranks, and no gradient.
        files = [entry for entry in manifest.files if entry.name.startswith("swapped/")]
        assert len(files) == 12
        assert sum(entry.size for entry in files) == pytest.approx(12 * 2 * 687104, rel=0.01)


def test_a_machine_without_the_operator_is_refused_before_the_model_is_loaded(
    swapped: MakeSwapped, ranks: RankServer, tmp_path: Path
) -> None:
    without_compiler = {"PATH": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "nothing")}
    result = ranks.run(swapped(), tmp_path / "run", environment=without_compiler)

    assert set(result.statuses) == {int(ExitCode.BAD_SPEC)}, result.log()
    assert "DeepSpeed's operator for local disks cannot be loaded or compiled" in result.log()
    assert "use resources.offload: optimizer" in result.log()


def test_a_disk_that_takes_no_direct_writes_is_refused(ranks: RankServer) -> None:
    with pytest.raises(AssertionError, match=r"cannot be written and read directly .* give the nodes local disks"):
        ranks.call("finetune_trainer.disk_operator:prepare_disk", folder="/proc/self/swap", rank=0)


def test_a_disk_without_the_space_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    check_space(tmp_path / "swap", 1000)
    with pytest.raises(TrainerFailure, match="give the nodes more ephemeral storage") as refused:
        check_space(tmp_path / "swap", free)
    assert refused.value.exit_code is ExitCode.DISK_FULL
