"""`finetune estimate`: the memory of one training process for a model and a way to train it, without a job, a cluster or torch."""

from __future__ import annotations

import argparse
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from pydantic import JsonValue

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.plan import PlanError
from finetune_operator.cli.exit_codes import BAD_INPUT
from finetune_operator.cli.manifest_file import UnreadableManifest
from finetune_operator.cli.model_config import config_in_folder, known_config, similar_names
from finetune_operator.cli.model_trace import trace_of_folder
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture, architecture_of, text_part
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import (
    BF16_FLOAT32_MOMENTS,
    FLOAT32,
    FLOAT32_MASTER,
    PURE_BF16,
    AttentionKernel,
    Goal,
    LossKind,
    Optimizer,
    Quantization,
    Tuning,
)
from finetune_operator.memory.own_workload import as_trained_here
from finetune_operator.memory.states import States, host_load_bytes, states_of, trainable_parameters
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.catalogue import CATALOGUE, UNKNOWN, gpu_of
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.pools import gib
from finetune_operator.planner.unsized import untraced

NUMERICS: Final = {
    "bf16-float32-master": FLOAT32_MASTER,
    "bf16": PURE_BF16,
    "bf16-float32-moments": BF16_FLOAT32_MOMENTS,
    "fp32": FLOAT32,
}
QLORA: Final = "qlora"
Choice = TypeVar("Choice", bound=StrEnum)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `finetune estimate`."""
    parser.add_argument(
        "model", metavar="MODEL", help="organisation/name of a known model, or a folder with a config.json"
    )
    parser.add_argument(
        "--method",
        choices=(*(tuning.value for tuning in Tuning if tuning is not Tuning.OTHER), QLORA),
        default=Tuning.LORA.value,
        help="what is trained; qlora is lora on weights in nf4 (default: lora)",
    )
    parser.add_argument("--length", type=_positive, default=2048, help="tokens per sequence (default: 2048)")
    parser.add_argument("--micro-batch", type=_positive, default=1, help="sequences per process and pass (default: 1)")
    parser.add_argument("--accumulation", type=_positive, default=1, help="micro-batches per step (default: 1)")
    parser.add_argument("--gpus", type=_positive, default=1, help="processes, one per GPU (default: 1)")
    _choice(parser, "--strategy", Strategy, None, "default: single, with several GPUs fsdp")
    _choice(parser, "--offload", Offload, Offload.NONE)
    _choice(parser, "--checkpointing", Checkpointing, Checkpointing.FULL)
    _choice(parser, "--optimizer", Optimizer, Optimizer.ADAMW)
    _choice(parser, "--attention", AttentionKernel, AttentionKernel.SDPA)
    _choice(parser, "--loss", LossKind, LossKind.CHUNKED)
    _choice(parser, "--objective", Goal, Goal.SFT)
    _choice(parser, "--quantization", Quantization, Quantization.NONE, "of frozen weights")
    parser.add_argument(
        "--numerics",
        choices=tuple(NUMERICS),
        default="bf16-float32-master",
        help="formats of trained weights; the trainer's bf16 keeps float32 masters (default: bf16-float32-master)",
    )
    parser.add_argument("--rank", type=_positive, default=16, help="rank of adapters, or virtual tokens (default: 16)")
    parser.add_argument(
        "--targets", default=ALL_LINEAR, help="names of adapted modules, by commas (default: all-linear)"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the adapters' inputs (default: 0)")
    parser.add_argument("--trained-layers", type=_positive, default=2, help="of method freeze (default: 2)")
    parser.add_argument("--trained-fraction", type=float, default=0.25, help="of method spectrum (default: 0.25)")
    parser.add_argument(
        "--evaluation-batch",
        type=_count,
        default=0,
        help="sequences per evaluation batch and process (default: 0, none)",
    )
    parser.add_argument(
        "--packing", action="store_true", help="rows are joined to full length and kept apart by a mask"
    )
    parser.add_argument("--gpu", metavar="PRODUCT", help="compare with this type's memory, such as NVIDIA-L4")
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="how it is printed (default: table)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _choice(
    parser: argparse.ArgumentParser, option: str, kind: type[Choice], default: Choice | None, more: str = ""
) -> None:
    values = tuple(member.value for member in kind)
    said = f"default: {default.value}" if default is not None else ""
    help_text = ", ".join(part for part in (more, said) if part)
    parser.add_argument(option, choices=values, default=default.value if default is not None else None, help=help_text)


def run(options: argparse.Namespace) -> int:
    """Print the estimate. Return 0, or 2 when model, GPU or the combination of options cannot be used (why on stderr)."""
    try:
        config = _config(options.model)
        architecture = _architecture(config, Path(options.model.removeprefix("file://")))
        capacity = _capacity(options.gpu)
        workload = _workload(options, architecture)
    except UnreadableManifest as error:
        print(f"finetune estimate: {error}", file=sys.stderr)
        return BAD_INPUT
    memory = estimate(architecture, workload)
    trained = trainable_parameters(architecture, workload)
    load_bytes = host_load_bytes(architecture, workload)
    states = states_of(architecture, workload)
    if options.output == "json":
        answer = {
            "model": options.model,
            "totalParameters": architecture.parameters,
            "trainableParameters": trained,
            "gpuMemoryBytes": capacity,
            "memory": memory.to_json_dict(),
            "hostMemory": {"loadBytes": load_bytes, "offloadedBytes": states.host},
            "localDisk": {"swappedBytes": states.disk},
        }
        print(json.dumps(answer, indent=2))
        return 0
    # rich costs 60 ms; JSON does without it.
    from rich.console import Console

    from finetune_operator.cli.memory_picture import estimate_picture

    console = Console(highlight=False)
    counts = f"{architecture.parameters:,} parameters, {trained:,} trained"
    if text_part(config) is not config:
        counts += "; the text part alone, without the vision tower"
    if 0 < architecture.max_positions < options.length:
        counts += f"; --length {options.length} is more than the {architecture.max_positions} positions that the model was made for"
    console.print(estimate_picture(memory, counts, capacity, width=console.width))
    console.print(_host_line(architecture, workload, load_bytes, states))
    return 0


def _host_line(architecture: Architecture, workload: Workload, load_bytes: int, states: States) -> str:
    """Host memory, the one figure in which ranks differ: where only the first process reads weights the others take none."""
    readers = "each process"
    if workload.processes > 1 and host_load_bytes(architecture, workload, 2) == load_bytes:
        readers = "the first process alone"
    offloaded = f", {gib(states.host)} GiB offloaded by each process" if states.host else ""
    swapped = f"; local disk: {gib(states.disk)} GiB of each process" if states.disk else ""
    return f"\nHost memory: {gib(load_bytes)} GiB while {readers} loads the model{offloaded}{swapped}"


def _config(model: str) -> dict[str, JsonValue]:
    """Return the content of the model's config.json.

    Raises:
        UnreadableManifest: the model is neither known nor a folder with a config.json.
    """
    name = model.removeprefix("hf://")
    folder = Path(model.removeprefix("file://"))
    known = known_config(name)
    if known is None and not folder.is_dir():
        raise UnreadableManifest(
            f"model: {model} is no folder and none of the {len(KNOWN_MODELS)} models whose numbers are shipped; "
            f"{similar_names(name)}give a folder with the model's config.json"
        )
    return known if known is not None else config_in_folder(folder)


def _architecture(config: dict[str, JsonValue], folder: Path) -> Architecture:
    """Return the model's numbers, traced where no table knows the one in `folder`.

    Raises:
        UnreadableManifest: config.json cannot be used.
    """
    answer = architecture_of(config)
    if isinstance(answer, PlanError) and answer.needs_trace:
        trace = trace_of_folder(folder)
        answer = untraced(answer, trace) if isinstance(trace, str) else architecture_of(config, trace)
    if isinstance(answer, PlanError):
        raise UnreadableManifest(answer.message)
    return answer


def _capacity(product: str | None) -> int | None:
    if product is None:
        return None
    gpu = gpu_of(product)
    if gpu is UNKNOWN:
        raise UnreadableManifest(
            f"--gpu: the catalogue lacks {product}; name one of {', '.join(gpu.product for gpu in CATALOGUE)}"
        )
    return gpu.memory_bytes


def _workload(options: argparse.Namespace, architecture: Architecture) -> Workload:
    """Return what the options ask for.

    Raises:
        UnreadableManifest: options contradict each other or the model.
    """
    strategy = Strategy(options.strategy or (Strategy.SINGLE if options.gpus == 1 else Strategy.FSDP))
    if strategy is Strategy.SINGLE and options.gpus > 1:
        raise UnreadableManifest(f"--strategy: single is for one process and --gpus is {options.gpus}; use fsdp or ddp")
    offload = Offload(options.offload)
    if offload is not Offload.NONE and strategy not in (Strategy.FSDP, Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3):
        raise UnreadableManifest(
            f"--offload: {strategy} moves nothing to the host; use --strategy zero2, zero3 or fsdp with --gpus, or --offload none"
        )
    if offload is Offload.NVME and (strategy is not Strategy.ZERO3 or options.method != Tuning.FULL):
        raise UnreadableManifest(
            "--offload: nvme is for full training with ZeRO-3; use --method full --strategy zero3 with --gpus, or --offload optimizer"
        )
    if options.gpus == 1 and strategy is not Strategy.SINGLE:
        raise UnreadableManifest(
            f"--strategy: {strategy} is for several processes and --gpus is 1; use single, or --gpus 2"
        )
    if options.method == Tuning.FREEZE and options.trained_layers > architecture.layers:
        raise UnreadableManifest(
            f"--trained-layers: {options.trained_layers} is more than the model's {architecture.layers} layers; use fewer, or --method full"
        )
    targets = tuple(name.strip() for name in options.targets.split(",") if name.strip()) or (ALL_LINEAR,)
    unknown = [name for name in targets if name != ALL_LINEAR and name not in architecture.target_names()]
    if unknown:
        raise UnreadableManifest(
            f"--targets: the model has no linear module {', '.join(unknown)}; it has {', '.join(architecture.target_names())}"
        )
    for option, value in (("--dropout", options.dropout), ("--trained-fraction", options.trained_fraction)):
        if not 0 <= value < 1:
            raise UnreadableManifest(f"{option}: {value} is no share from 0 to below 1")
    quantization = Quantization(options.quantization)
    is_qlora = options.method == QLORA
    if is_qlora and quantization is Quantization.NONE:
        quantization = Quantization.NF4_DOUBLE
    tuning = Tuning.LORA if is_qlora else Tuning(options.method)
    if quantization is not Quantization.NONE and tuning in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM):
        raise UnreadableManifest(
            f"--quantization: quantised weights cannot be trained by --method {tuning}; use --method qlora or --quantization none"
        )
    workload = Workload(
        tuning=tuning,
        numerics=NUMERICS[options.numerics],
        micro_batch=options.micro_batch,
        sequence_length=options.length,
        accumulation=options.accumulation,
        strategy=strategy,
        processes=options.gpus,
        checkpointing=Checkpointing(options.checkpointing),
        rank=options.rank,
        targets=targets,
        dropout=options.dropout,
        loss=LossKind(options.loss),
        quantization=quantization,
        optimizer=Optimizer(options.optimizer),
        attention=AttentionKernel(options.attention),
        packing=options.packing,
        separates_rows=options.packing,
        goal=Goal(options.objective),
        offload=offload,
        evaluation_batch=options.evaluation_batch,
        trained_layers=options.trained_layers if tuning is Tuning.FREEZE else 0,
        trained_fraction=options.trained_fraction if tuning is Tuning.SPECTRUM else 0.0,
    )
    return as_trained_here(workload)
