"""The second inspection: what it adds to the report, and that a plan comes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from traced.cases import setting_of

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import FLOAT32_MASTER, PURE_BF16, Tuning
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.plan import make_plan
from finetune_trainer.inspect.command import run
from finetune_trainer.oracle.step import trace

Build = Callable[..., InspectionRequest]
XGLM = {
    "architectures": ["XGLMForCausalLM"],
    "model_type": "xglm",
    "d_model": 512,
    "ffn_dim": 2048,
    "num_layers": 4,
    "attention_heads": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
}
"""A decoder without fused attention."""
FULL, LORA, NONE = Tuning.FULL, Tuning.LORA, Checkpointing.NONE
WORKLOADS = (
    Workload(FULL, PURE_BF16, 2, 512, checkpointing=NONE, packing=True),
    Workload(FULL, FLOAT32_MASTER, 2, 512, checkpointing=NONE, packing=True),
    Workload(LORA, FLOAT32_MASTER, 4, 512, checkpointing=NONE, packing=True),
    Workload(LORA, FLOAT32_MASTER, 4, 512, checkpointing=NONE, rank=64),
)
pytestmark = pytest.mark.timeout(400)  # one trace is 5 s of a free core
NODES = Inventory(
    cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=8000, memory_bytes=32 * GIB, ephemeral_storage_bytes=64 * GIB),)
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def inspect(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., InspectionReport]:
    """Inspect a model with this config.json, with --trace or without, and return the report."""

    def run_it(request: InspectionRequest, config: dict[str, Any], *options: str) -> InspectionReport:
        monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "termination"))
        (model / "config.json").write_text(json.dumps(config))
        (tmp_path / "request.json").write_text(request.model_dump_json(by_alias=True, exclude_none=True))
        report = tmp_path / "report.json"
        assert run(["--job", str(tmp_path / "request.json"), "--output", str(report), *options]) == 0
        return InspectionReport.model_validate_json(report.read_text())

    return run_it


def planned(request: InspectionRequest, report: InspectionReport) -> Plan | PlanError:
    return make_plan(request.spec, report, NODES)


def test_an_unknown_model_is_planned_once_it_was_traced_and_within_2_percent_of_the_oracle(
    request_for: Build, inspect: Any
) -> None:
    request = request_for(resources={"accelerator": "cpu"}, model={})
    first = inspect(request, XGLM)
    refused = planned(request, first)
    assert isinstance(refused, PlanError)
    assert (refused.reason, refused.needs_trace) == (Reason.UNKNOWN_ARCHITECTURE, True)
    second = inspect(request, XGLM, "--trace")
    assert second.dataset == first.dataset
    plan = planned(request, second)
    assert isinstance(plan, Plan)
    assert any("xglm" in assumption for assumption in plan.assumptions)
    architecture = architecture_of(XGLM, second.model.trace)
    assert isinstance(architecture, Architecture)
    for workload in WORKLOADS:
        measured = trace(XGLM, setting_of(workload, XGLM)).peak
        estimated = estimate(architecture, workload).allocated
        assert estimated.expected_bytes == pytest.approx(measured, rel=0.02), workload
        assert estimated.upper_bytes > 1.15 * measured


@pytest.mark.parametrize(
    ("config", "source", "said"),
    [
        ({**XGLM, "model_type": "newest"}, {}, "newest"),
        ({**XGLM, "auto_map": {"AutoModelForCausalLM": "m.M"}}, {"trustRemoteCode": True}, "model.trustRemoteCode"),
    ],
    ids=["unknown to transformers", "with code of its own"],
)
def test_what_cannot_be_traced_is_told_in_the_report_and_by_the_plan(
    config: dict[str, Any], source: dict[str, Any], said: str, request_for: Build, inspect: Any
) -> None:
    request = request_for(model=source)
    report = inspect(request, config, "--trace")
    assert report.model.trace is None
    assert said in report.model.trace_error
    refused = planned(request, report)
    assert isinstance(refused, PlanError)
    assert not refused.needs_trace
    assert report.model.trace_error in refused.message
    assert "use a model of one of these types" in refused.message


def test_a_multimodal_model_is_not_sent_to_be_traced(request_for: Build, inspect: Any) -> None:
    request = request_for()
    refused = planned(request, inspect(request, {**XGLM, "model_type": "newest", "text_config": XGLM}))
    assert isinstance(refused, PlanError)
    assert not refused.needs_trace
