"""`finetune plan`: the plan of a job without a cluster, a network or torch, in less than a second."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from finetune_operator.api.history import EMPTY_HISTORY
from finetune_operator.api.plan import GIB, PlanError
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.exit_codes import BAD_INPUT, NO_PLAN
from finetune_operator.cli.local_results import with_found_models
from finetune_operator.cli.manifest_file import UnreadableManifest, add_filename, read_job, with_absolute_locations
from finetune_operator.cli.model_config import config_in_folder, known_config, similar_names
from finetune_operator.cli.model_trace import trace_of_folder
from finetune_operator.cli.plan_inputs import read_file, read_history, read_inspection, read_inventory
from finetune_operator.planner.catalogue import CATALOGUE, UNKNOWN, catalogue_inventory, gpu_of
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `finetune plan`."""
    add_filename(parser)
    parser.add_argument(
        "--inspection",
        type=Path,
        metavar="FILE",
        help="an inspection report, or ConfigMap <job>-inspection as kubectl get -o json prints it; without one, data is not looked at",
    )
    parser.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="the nodes to plan for (YAML or JSON): gpuNodes and cpuNodes, or what kubectl get nodes -o json prints; without one, nodes with eight "
        "GPUs of each known type",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="what finished jobs have measured (YAML or JSON): the operator's ConfigMap as kubectl get -o json prints it, or its content",
    )
    parser.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        help="what GPUs cost (YAML or JSON): currency, and perGpuHour by product; the plan then chooses by money and shows it",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".finetune"),
        help="where finetune run keeps its runs: model.uri: ftj://NAME means the result of the run NAME (default: .finetune)",
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="how the plan is printed (default: table)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the plan. Return 0 with a plan, 2 when a file cannot be used, 3 when there is no plan (message and remedy on stderr)."""
    try:
        job = read_job(options.filename)
        spec = with_absolute_locations(job.spec, Path.cwd())
        inspection = read_inspection(options.inspection) if options.inspection else None
        spec = spec if inspection is not None else with_found_models(spec, options.folder)
        given = read_inventory(options.inventory, spec.pod) if options.inventory else None
        history = read_history(options.history) if options.history else EMPTY_HISTORY
        prices = read_file(options.prices, Prices) if options.prices else NO_PRICES
        knowledge = _Knowledge() if inspection is not None else _look_up(spec)
        inventory, inventory_assumption = (given, ()) if given is not None else _assumed_inventory(spec)
    except UnreadableManifest as error:
        print(f"finetune plan: {error}", file=sys.stderr)
        return BAD_INPUT
    plan_with = partial(
        make_plan,
        spec,
        inspection,
        inventory,
        history=history,
        prices=prices,
        config=knowledge.config,
        rows=knowledge.rows,
        assumptions=(*knowledge.assumptions, *inventory_assumption),
    )
    plan = plan_with()
    if isinstance(plan, PlanError) and plan.needs_trace and inspection is None:
        folder = Path(spec.model.uri.removeprefix("file://"))
        plan = plan_with(trace=trace_of_folder(folder, trusts_code=spec.model.trust_remote_code))
    if isinstance(plan, PlanError):
        if options.output == "json":
            print(json.dumps(plan.to_json_dict(), indent=2))
        print(f"finetune plan: {plan.reason}: {plan.message}", file=sys.stderr)
        return NO_PLAN
    if options.output == "json":
        print(json.dumps(plan.to_json_dict(), indent=2))
        return 0
    # rich costs 60 ms; JSON does without it.
    from rich.console import Console

    from finetune_operator.cli.tables import plan_table

    Console(highlight=False).print(plan_table(plan))
    return 0


@dataclass(frozen=True)
class _Knowledge:
    """What stands in for an inspection."""

    config: dict[str, JsonValue] | None = None
    rows: int = 0
    assumptions: tuple[str, ...] = ()


def _look_up(spec: FineTuneJobSpec) -> _Knowledge:
    """Read a local model's config.json, or the table of known models; count a local data set's lines."""
    config, model_assumption = _model_config(spec.model.uri)
    rows, data_assumption = _row_count(spec)
    return _Knowledge(config, rows, (model_assumption, data_assumption))


def _model_config(uri: str) -> tuple[dict[str, JsonValue], str]:
    if uri.startswith("file://"):
        config = config_in_folder(Path(uri.removeprefix("file://")))
        return config, "model: read from config.json in the model's folder; its weights were not looked at"
    name = uri.removeprefix("hf://")
    known = known_config(name) if uri.startswith("hf://") else None
    if known is not None:
        return known, f"model: the numbers of {name} that finetune-operator ships; revisions may differ"
    raise UnreadableManifest(
        f"model.uri: {uri} was not inspected and is none of the {len(KNOWN_MODELS)} models whose numbers are shipped; "
        f"{similar_names(name)}give --inspection FILE (kubectl get configmap <job>-inspection -o json, of an earlier job), "
        "or model.uri: file://FOLDER with the model's config.json"
    )


def _row_count(spec: FineTuneJobSpec) -> tuple[int, str]:
    """Count lines of a local file: an upper bound of its usable rows."""
    length = f"rows may be as long as training.maxLength: {spec.training.max_length}"
    paths = [Path(each.uri.removeprefix("file://")) for each in spec.all_datasets if each.uri.startswith("file://")]
    if len(paths) == len(spec.all_datasets) and all(path.is_file() for path in paths):
        rows = 0
        for path, dataset in zip(paths, spec.all_datasets, strict=True):
            with path.open("rb") as lines:
                rows += math.ceil(sum(1 for line in lines if line.strip()) * dataset.weight)
        weighted = ", as often as its weight says" if spec.datasets is not None else ""
        return rows, f"data: not inspected; every one of {rows:,} lines is a usable row{weighted}, and {length}"
    return 0, f"data: not inspected; the number of rows is unknown, and {length}"


def _assumed_inventory(spec: FineTuneJobSpec) -> tuple[Inventory, tuple[str, ...]]:
    if spec.resources.accelerator == "cpu":
        node = CpuNodes(nodes=8, cpu_millicores=16_000, memory_bytes=64 * GIB, ephemeral_storage_bytes=256 * GIB)
        return Inventory(cpu_nodes=(node,)), (
            "nodes: no inventory given; nodes with 16 CPUs, 64 GiB memory and 256 GiB disk",
        )
    products = tuple(spec.resources.gpu_product)
    unknown = [product for product in products if gpu_of(product) is UNKNOWN]
    if unknown:
        raise UnreadableManifest(
            f"resources.gpuProduct: the catalogue lacks {', '.join(unknown)}, so its memory is unknown; give --inventory FILE with such nodes, "
            f"or name one of {', '.join(gpu.product for gpu in CATALOGUE)}"
        )
    without_libraries = [product for product in products if gpu_of(product).product.startswith("AMD")]
    if without_libraries:
        raise UnreadableManifest(
            f"resources.gpuProduct: {', '.join(without_libraries)}: the trainer image has no libraries for AMD GPUs; name NVIDIA types"
        )
    # A job that names products is planned for those alone; the others are there to be proposed where it does not fit.
    usual = catalogue_inventory().gpu_nodes
    named = tuple(nodes for nodes in catalogue_inventory(products).gpu_nodes if products and nodes not in usual)
    which = " or ".join(products) if products else "each NVIDIA type but GeForce that the catalogue knows"
    short = [
        product for product in products if product not in {gpu.product for gpu in CATALOGUE} and "-MIG-" not in product
    ]
    aliases = tuple(
        f"resources.gpuProduct: {product} is taken for {gpu_of(product).product}; in a cluster it has to equal the node label nvidia.com/gpu.product"
        for product in short
    )
    return Inventory(gpu_nodes=(*usual, *named)), (
        f"nodes: no inventory given; eight nodes with eight GPUs of {which}",
        *aliases,
    )
