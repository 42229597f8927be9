"""How fast plans are made: `python bench/plan_search.py`; prints JSON, milliseconds and jobs per second of one process.

A 70B model over 1,000 nodes of six GPU types: LoRA, full training on up to 64 GPUs, and a job that fits nowhere, for which remedies are
searched as well. Then a stream of random jobs over the same nodes. Every plan is made from scratch: nothing is kept between calls but what the
estimator keeps of a model's layers. CPU times beside wall times: those of a busy machine tell of the others.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from finetune_operator.api.plan import GIB, Plan
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, Head, architecture_of
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan

PRODUCTS = (
    "NVIDIA-H200",
    "NVIDIA-H100-80GB-HBM3",
    "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-L40S",
    "NVIDIA-A10G",
    "Tesla-T4",
)
NODES = 1000
RUNS = 15
FIRST_JOBS = 200
JOBS_BETWEEN = 800
RANDOM_JOBS = 500


def inventory_of(nodes: int) -> Inventory:
    """Return `nodes` nodes, a sixth of each type, in two generations of hosts; every node reports a slightly different memory, as kubelets do."""
    gpus = catalogue_inventory(PRODUCTS).gpu_nodes
    groups = []
    for number in range(nodes):
        size = round((1 + number % 2) * 1024 * GIB) - number % 61 * 2**20
        groups.append(gpus[number % len(gpus)].model_copy(update={"nodes": 1, "host_memory_bytes": size}))
    return Inventory(gpu_nodes=tuple(groups))


def spec_of(model: str, **parts: Any) -> FineTuneJobSpec:
    """Return the spec of a job on `model`."""
    whole = {
        "model": {"uri": f"hf://{model}"},
        "dataset": {"uri": "s3://data/rows.jsonl"},
        "output": {"uri": "s3://models/bench"},
        **parts,
    }
    return FineTuneJobSpec.model_validate(whole)


def random_jobs(count: int) -> list[FineTuneJobSpec]:
    """Return jobs on known models of every size, always the same ones; encoders and multimodal models, which are refused at once, are left out."""
    source = random.Random(4)
    models = [name for name, config in sorted(KNOWN_MODELS.items()) if _is_searched(config)]
    jobs = []
    for _ in range(count):
        resources: dict[str, Any] = {"objectiveOfPlan": source.choice(("cheapest", "fastest"))}
        limits = source.choice(("gpus", "maxGPUs", ""))
        if limits:
            resources[limits] = source.choice((1, 2, 4, 8, 16, 32))
        training = {
            "globalBatchSize": source.choice((8, 32, 64, 96, 128)),
            "maxLength": source.choice((512, 2048, 8192)),
        }
        tuning = {"method": source.choice(("full", "lora", "qlora"))}
        jobs.append(spec_of(source.choice(models), training=training, tuning=tuning, resources=resources))
    return jobs


def _is_searched(config: Mapping[str, JsonValue]) -> bool:
    architecture = architecture_of(config)
    return (
        isinstance(architecture, Architecture) and architecture.head is Head.CAUSAL_LM and "text_config" not in config
    )


def milliseconds(spec: FineTuneJobSpec, inventory: Inventory) -> dict[str, Any]:
    """Return how long one plan takes, and whether there is one."""
    config = KNOWN_MODELS[spec.model.uri.removeprefix("hf://")]
    runs, cpu, answer = [], [], None
    for _ in range(RUNS):
        start, cpu_start = time.perf_counter(), time.process_time()
        answer = make_plan(spec, None, inventory, config=config)
        runs.append((time.perf_counter() - start) * 1000)
        cpu.append((time.process_time() - cpu_start) * 1000)
    return {
        "median_ms": round(statistics.median(runs), 1),
        "max_ms": round(max(runs), 1),
        "median_cpu_ms": round(statistics.median(cpu), 1),
        "planned": isinstance(answer, Plan),
    }


def jobs_per_second(jobs: list[FineTuneJobSpec], inventory: Inventory) -> dict[str, Any]:
    """Return how many random jobs are planned in a second, and the slowest."""
    runs, planned, cpu_start = [], 0, time.process_time()
    for spec in jobs:
        start = time.perf_counter()
        answer = make_plan(spec, None, inventory, config=KNOWN_MODELS[spec.model.uri.removeprefix("hf://")])
        runs.append(time.perf_counter() - start)
        planned += isinstance(answer, Plan)
    return {
        "jobs": len(jobs),
        "planned": planned,
        "jobs_per_second": round(len(jobs) / sum(runs), 1),
        "jobs_per_cpu_second": round(len(jobs) / (time.process_time() - cpu_start), 1),
        "median_ms": round(statistics.median(runs) * 1000, 1),
        "max_ms": round(max(runs) * 1000, 1),
    }


def random_stream(inventory: Inventory) -> dict[str, Any]:
    """Return the speed of a process that has just started, and of one that has planned a thousand jobs, as an operator has."""
    jobs = random_jobs(FIRST_JOBS + JOBS_BETWEEN + RANDOM_JOBS)
    first = jobs_per_second(jobs[:FIRST_JOBS], inventory)
    jobs_per_second(jobs[FIRST_JOBS:-RANDOM_JOBS], inventory)
    return {"random_at_start": first, "random_later": jobs_per_second(jobs[-RANDOM_JOBS:], inventory)}


def main() -> None:
    """Measure all of it."""
    inventory = inventory_of(NODES)
    large = "meta-llama/Llama-3.1-70B-Instruct"
    up_to_64 = {"maxGPUs": 64}
    result = {
        "nodes": NODES,
        "gpu_types": len(PRODUCTS),
        "groups_of_equal_nodes": len(inventory.gpu_nodes),
        "llama_70b_lora": milliseconds(spec_of(large, tuning={"method": "lora"}), inventory),
        "llama_70b_full_up_to_64_gpus": milliseconds(
            spec_of(large, tuning={"method": "full"}, resources=up_to_64), inventory
        ),
        "llama_70b_fits_nowhere": milliseconds(
            spec_of(large, tuning={"method": "full"}, resources={"gpuProduct": ["Tesla-T4"]}), inventory
        ),
        **random_stream(inventory),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
