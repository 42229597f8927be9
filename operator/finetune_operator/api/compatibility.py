"""What goes with what: objectives, strategies, offload and resumes, as CRD rules, planner, docs and tests all read them.

What was measured or read in a library's source has its version named, so that an upgrade re-opens the question. Combinations that do not work
are in impossible.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.methods import Method as Method
from finetune_operator.api.words import Word


class Objective(Word):
    """What a job optimises."""

    SFT = "sft"
    PRETRAIN = "pretrain"
    DPO = "dpo"
    ORPO = "orpo"
    KTO = "kto"
    REWARD = "reward"
    CLASSIFICATION = "classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - tokens of a text
    EMBEDDING = "embedding"
    GRPO = "grpo"
    RLOO = "rloo"
    RERANKER = "reranker"
    DISTILL = "distill"


OBJECTIVES_NOT_OFFERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ppo": "TRL 1.16 has no trainer of it any more; use objective: rloo or grpo, which learn from the same rewards with a KL penalty "
        "(training.rloo.beta) and without a value model"
    }
)
"""What people look for and does not exist, with the reason and what to do."""
PRECISIONS_NOT_OFFERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fp16": "accelerate 1.15 scales losses on accelerators alone (accelerator.py), so that neither its losses nor their resume could be tried "
        "here; use bf16, which is emulated by GPUs that lack it (V100, T4), or fp32 there"
    }
)
"""Likewise for `training.precision`."""
ONLINE: Final = (Objective.GRPO, Objective.RLOO)
"""Objectives whose answers are generated while training."""
PREFERENCES: Final = (Objective.DPO, Objective.ORPO, Objective.KTO, Objective.REWARD)
"""Objectives that learn which answers are preferred."""
LABELLING: Final = (Objective.CLASSIFICATION, Objective.TOKEN_CLASSIFICATION)
"""Objectives whose model gives classes: its head has as many outputs as the rows have labels."""
PAIRING: Final = (Objective.EMBEDDING, Objective.RERANKER)
"""Objectives that learn which texts go together."""
ENCODING: Final = (*LABELLING, *PAIRING)
"""Objectives that encoders learn as well as decoders: their models give numbers and write nothing."""
LEARN_TEXTS: Final = frozenset({Objective.SFT, Objective.PRETRAIN, Objective.DISTILL})
"""Objectives that learn the next token of texts one by one: these can be packed, and cut at either end."""

OBJECTIVE_MEANINGS: Final[Mapping[Objective, str]] = MappingProxyType(
    {
        Objective.SFT: "supervised fine-tuning",
        Objective.PRETRAIN: "continued pre-training on raw text",
        Objective.DPO: "direct preference optimisation of chosen over rejected answers",
        Objective.ORPO: "the chosen answers and their odds over the rejected ones at once, without a reference",
        Objective.KTO: "answers that are each wanted or not",
        Objective.REWARD: "a reward model, which gives answers a number",
        Objective.CLASSIFICATION: "a class for each text, or for each pair of texts that are read together",
        Objective.TOKEN_CLASSIFICATION: "a class for each word",
        Objective.EMBEDDING: "a vector for each text, close to those of texts that belong to it",
        Objective.GRPO: "answers that the model generates, compared with the mean reward of their group",
        Objective.RLOO: "the same, compared with the mean of the others, and with a KL penalty",
        Objective.RERANKER: "a score for each pair of texts, which are read together",
        Objective.DISTILL: "the answers of the rows, token by token as likely as a teacher finds them",
    }
)


class Strategy(Word):
    """How states are spread over processes."""

    SINGLE = "single"
    DDP = "ddp"
    FSDP = "fsdp"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"


class Checkpointing(Word):
    """Whether activations are kept or computed again in the backward pass."""

    NONE = "none"
    FULL = "full"


class Offload(Word):
    """What lives in host memory between uses."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    """Optimizer states and float32 masters, which are stepped there."""
    PARAMETERS = "parameters"
    """Weights, gradients and optimizer states."""
    NVME = "nvme"
    """Optimizer states and float32 masters on the node's local disk, from which they are read to be stepped in host memory."""


ZERO_STAGES: Final[Mapping[Strategy, int]] = MappingProxyType({Strategy.ZERO1: 1, Strategy.ZERO2: 2, Strategy.ZERO3: 3})
"""The strategies that DeepSpeed runs, with their stage."""

SHARDED_STRATEGIES: Final = (Strategy.FSDP, *ZERO_STAGES)
"""Those that spread states: no process has all that the final model is exported from."""

OFFLOADS: Final[Mapping[Strategy, tuple[Offload, ...]]] = MappingProxyType(
    {
        Strategy.FSDP: (Offload.PARAMETERS,),
        Strategy.ZERO1: (Offload.OPTIMIZER,),
        Strategy.ZERO2: (Offload.OPTIMIZER,),
        Strategy.ZERO3: (Offload.OPTIMIZER, Offload.PARAMETERS, Offload.NVME),
    }
)
"""What each strategy can keep in host memory or on local disk. torch knows one policy for FSDP2, which offloads all (CPUOffloadPolicy). One process
and DDP have no such thing. DeepSpeed 0.19.8 takes nvme for host memory with ZeRO-1 and ZeRO-2."""

STRATEGY_MEANINGS: Final[Mapping[Strategy, str]] = MappingProxyType(
    {
        Strategy.SINGLE: "one process holds everything",
        Strategy.DDP: "every process holds everything, and gradients are summed",
        Strategy.FSDP: "FSDP2: weights, gradients and optimizer states are spread; weights are gathered layer by layer",
        Strategy.ZERO1: "DeepSpeed: float32 masters and optimizer states are spread",
        Strategy.ZERO2: "DeepSpeed: gradients as well, which are reduced in every micro-batch",
        Strategy.ZERO3: "DeepSpeed: weights as well; they are gathered layer by layer",
    }
)

NOT_OFFERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "context parallel": "accelerate 1.15 has it with FSDP2 (ParallelismConfig.cp_size), for fused attention without a padding mask and without "
        "packing; torch 2.13's attention on CPUs has no sharding strategy for it, so that nothing here could prove its losses. Long rows: "
        "gradient checkpointing, offload, or a shorter training.maxLength",
        "tensor parallel": "transformers 5.23 trains with it and cannot resume: models that were sharded at load time have no checkpoints",
        "sequence parallel (Ulysses)": "accelerate 1.15 with DeepSpeed 0.19.8's attention trains: two CPU ranks that shared every row (sdpa, ZeRO-2 "
        "and ZeRO-3, rows padded to a multiple of 2) had the losses of one process within 1e-6. Not brought in yet: transformers 5.23 averages the "
        "micro-batches of a step, not their tokens (deepspeed_sp_compute_loss), the longest batch cannot be tried before step 1 (KeyError: "
        "shift_labels), a group's ranks take their rows by turns (UlyssesSPDataLoaderAdapter), so that a step has as many times more "
        "micro-batches as the group has ranks, TRL 1.16 refuses every loss but the model's own with it, and memory, packing and resume are "
        "unproven",
        "weights on NVMe": "DeepSpeed 0.19.8 swaps weights as well (offload_param), with ZeRO-3; untried here, as is how they are saved and resumed. "
        "resources.offload: nvme has optimizer states alone on local disk, 12 of full training's 16 bytes per parameter",
        "Liger kernels, the flash-attn package": "both need a GPU to be tried on. Attention is torch's scaled_dot_product_attention, which has a "
        "flash kernel of its own, and TRL 1.16's chunked head makes no logits of all tokens at once either",
    }
)
"""What other programs do and this one does not, with the reason; measured or read with the versions that are named."""

RESUME_EACH_OTHER: Final = ((Strategy.SINGLE, Strategy.DDP, Strategy.FSDP), (Strategy.ZERO1, Strategy.ZERO2))
"""Groups of strategies whose checkpoints all of the group go on from, with any number of processes: ZeRO-1 and ZeRO-2 by DeepSpeed's universal
checkpoint."""
ANY_WORLD_SIZE: Final = tuple(strategy for group in RESUME_EACH_OTHER for strategy in group)


def resume_obstacle(
    written_by: Strategy,
    processes: int,
    strategy: Strategy,
    world_size: int,
    *,
    was_swapped: bool = False,
    is_swapped: bool = False,
) -> str | None:
    """Return why a checkpoint of `processes` cannot be resumed by a plan over `world_size`, None when it can (deepspeed 0.19.8, torch 2.13).

    `was_swapped` and `is_swapped`: the checkpoint was written, and the plan runs, with optimizer states on local disk (offload: nvme).
    """
    if written_by is not strategy and not any({written_by, strategy} <= set(group) for group in RESUME_EACH_OTHER):
        return (
            f"it was written with strategy {written_by} and the plan has {strategy}; DeepSpeed's states are read by DeepSpeed alone, "
            "those of ZeRO-3 by ZeRO-3"
        )
    if processes != world_size and strategy not in ANY_WORLD_SIZE:
        # Loss of step 6 after a universal checkpoint of 2 processes: 3.77576 with 1 process instead of 3.77530, and 3.4285 instead of 3.4197 with 2.
        return (
            f"{strategy} wrote it with {processes} processes and the plan has {world_size}; DeepSpeed's universal checkpoint of ZeRO-3 goes on with "
            "other losses from the second step on"
        )
    if was_swapped != is_swapped:
        before, now = ("on local disk", "in memory") if was_swapped else ("in memory", "on local disk")
        return (
            f"its optimizer states were {before} and the plan has them {now} (resources.offload: nvme); DeepSpeed divides and names them "
            "otherwise there"
        )
    return None


def least_micro_batch(objective: Objective) -> int:
    """Return how many rows a process must see together: kto compares each answer with those of other rows (TRL 1.16 refuses one alone)."""
    return 2 if objective is Objective.KTO else 1


def offloads(method: Method, strategy: Strategy) -> tuple[Offload, ...]:
    """Return what a job of this method and strategy can keep in host memory or on local disk; 4-bit weights stay where they were quantised.

    Adapters have nothing for a disk: parts below 1 MiB stay in memory (DeepSpeed 0.19.8, MIN_AIO_BYTES).
    """
    possible = () if method is Method.QLORA else OFFLOADS.get(strategy, ())
    return tuple(offload for offload in possible if offload is not Offload.NVME or method is Method.FULL)


def loads_once(strategy: Strategy, *, quantized: bool) -> bool:
    """Whether only the job's first rank reads the weights into host memory and sends the others their shards.

    So with FSDP2, where the trainer sees to it (modeling.py), and with ZeRO-3, where transformers does (5.23,
    _load_state_dict_into_zero3_model). Not of 4-bit weights: accelerate 1.15 cannot move them to the meta device and back, and transformers
    quantises before it shards. The planner sizes host memory by it.
    """
    return strategy in (Strategy.FSDP, Strategy.ZERO3) and not quantized
