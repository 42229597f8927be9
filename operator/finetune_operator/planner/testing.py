"""Builders for tests of the planner: jobs on known models, nodes, inspections, and the answer that must be there."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.inspection import DatasetFacts, InspectionReport, ModelFacts, TokenHistogram
from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.inventory import CpuNodes, GpuNodes, Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan

LLAMA_8B = "meta-llama/Meta-Llama-3-8B"
SMALL = "HuggingFaceTB/SmolLM2-135M"
H100, A10G, T4 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A10G", "Tesla-T4"


def spec_of(
    model: str = LLAMA_8B, *, objective: str = "sft", training: Any = None, resources: Any = None, **tuning: Any
) -> FineTuneJobSpec:
    """Return a job on a known model; `tuning` are the fields of spec.tuning by their YAML names."""
    return FineTuneJobSpec.model_validate(
        {
            "objective": objective,
            "model": {"uri": f"hf://{model}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "tuning": tuning,
            "training": training or {},
            "resources": resources or {},
        }
    )


def gpu_nodes(product: str = H100, **changes: Any) -> GpuNodes:
    """Return eight well-equipped nodes of eight GPUs each, with `changes`."""
    nodes = catalogue_inventory((product,)).gpu_nodes[0]
    return nodes.model_copy(update=changes)


def cpu_inventory(nodes: int = 1, memory: int = 24 * GIB, millicores: int = 2000) -> Inventory:
    """Return equal CPU nodes."""
    return Inventory(cpu_nodes=(CpuNodes(nodes=nodes, cpu_millicores=millicores, memory_bytes=memory),))


def inspected(model: str = LLAMA_8B, *, rows: int = 1000, longest: int = 5000) -> InspectionReport:
    """Return a report on a known model and rows of at most so many tokens."""
    tokens = TokenHistogram(
        edges=(1, longest + 1),
        counts=(rows,),
        minimum=1,
        maximum=longest,
        mean=9.0,
        median=9,
        percentile_99=longest,
        total=rows,
    )
    facts = ModelFacts(
        uri=f"hf://{model}",
        revision="",
        architecture="LlamaForCausalLM",
        config=dict(KNOWN_MODELS[model]),
        parameters=1,
        weight_bytes=16 * GIB,
        dtypes={},
        files=(),
    )
    data = DatasetFacts(uri="s3://data/rows.jsonl", format="messages", files=(), rows=rows, tokens=tokens)
    return InspectionReport(
        key="k", job="team/tune", finished_at="2026-11-21T10:00:00Z", seconds=1.0, model=facts, dataset=data
    )


def plan_of(spec: FineTuneJobSpec, inventory: Inventory | None = None, **more: Any) -> Plan | PlanError:
    """Return the answer for a job on a known model; without an inventory on every NVIDIA type of the catalogue."""
    config = KNOWN_MODELS[spec.model.uri.removeprefix("hf://")]
    return make_plan(spec, more.pop("inspection", None), inventory or catalogue_inventory(), config=config, **more)


def good(answer: Plan | PlanError) -> Plan:
    """Return the plan that must be there."""
    if isinstance(answer, PlanError):
        raise AssertionError(f"no plan: {answer.message}")
    return answer


def bad(answer: Plan | PlanError) -> PlanError:
    """Return the error that must be there."""
    if isinstance(answer, Plan):
        raise AssertionError(f"there is a plan: {answer.reasons}")
    return answer
