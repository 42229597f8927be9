"""What a job may use; everything that is left out is planned."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.model import Rule, SpecModel


class Resources(SpecModel):
    """What the job may use. All of it is optional: what is left out is planned."""

    accelerator: Literal["gpu", "cpu"] = Field(
        "gpu", description="Train on GPUs or on CPUs (smoke tests, small models, teaching). Default gpu."
    )
    gpu_product: list[Annotated[str, StringConstraints(min_length=1, max_length=63)]] = Field(
        default_factory=list,
        max_length=20,
        description="Allowed GPU types, as node label nvidia.com/gpu.product names them. Default: any.",
    )
    gpus: int | None = Field(
        None, ge=1, le=4096, description="Exact number of GPUs. Default: planned. Not with minGPUs or maxGPUs."
    )
    min_gpus: int | None = Field(
        None, ge=1, le=4096, alias="minGPUs", description="Fewest GPUs that the plan may take. Default 1."
    )
    max_gpus: int | None = Field(
        None, ge=1, le=4096, alias="maxGPUs", description="Most GPUs that the plan may take. Default 8."
    )
    processes: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Number of training processes with accelerator cpu. Default 1. With gpu it is the number of GPUs.",
    )
    pods: int | None = Field(
        None, ge=1, le=1024, description="Number of pods over which the processes are spread evenly. Default: planned."
    )
    strategy: Literal["auto", "single", "ddp", "fsdp", "zero1", "zero2", "zero3"] = Field(
        "auto",
        description="How states are spread: one process, copies (ddp), fully sharded (fsdp), or DeepSpeed ZeRO (zero1, zero2, zero3). "
        "Default auto: planned.",
    )
    offload: Literal["auto", "none", "optimizer", "parameters", "nvme"] = Field(
        "auto",
        description="What lives in host memory between uses: nothing, optimizer states (zero1, zero2, zero3), or all states (fsdp, zero3). With nvme "
        "optimizer states are on the pods' local disk (zero3, tuning.method full). Slow; default auto: host memory, only where nothing else fits.",
    )
    micro_batch_size: int | None = Field(
        None, ge=1, le=4096, description="Sequences per GPU at a time. Default: planned."
    )
    gradient_checkpointing: Literal["auto", "none", "full"] = Field(
        "auto",
        description="Compute activations again in the backward pass (full) instead of keeping them (none). Default auto: planned.",
    )
    probe: bool = Field(
        True,
        description="Run the longest batch once before the first step, so that a lack of memory shows at once; losses stay the same. Default true.",
    )
    objective_of_plan: Literal["cheapest", "fastest"] = Field(
        "cheapest",
        description="Which of the plans that fit is taken: fewest GPU-hours, or shortest time. Default cheapest.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minGPUs) || !has(self.maxGPUs) || self.minGPUs <= self.maxGPUs",
            message="resources: minGPUs is greater than maxGPUs; lower minGPUs or raise maxGPUs",
            holds=lambda r: r.min_gpus is None or r.max_gpus is None or r.min_gpus <= r.max_gpus,
        ),
        Rule(
            cel="!has(self.gpus) || (!has(self.minGPUs) && !has(self.maxGPUs))",
            message="resources: gpus is exact; remove it, or remove minGPUs and maxGPUs",
            holds=lambda r: r.gpus is None or (r.min_gpus is None and r.max_gpus is None),
        ),
        Rule(
            cel="self.accelerator == 'gpu' || (!has(self.gpus) && !has(self.minGPUs) && !has(self.maxGPUs))",
            message="resources: gpus, minGPUs and maxGPUs have no meaning with accelerator: cpu; use processes, or accelerator: gpu",
            holds=lambda r: r.accelerator == "gpu" or (r.gpus is None and r.min_gpus is None and r.max_gpus is None),
        ),
        Rule(
            cel="self.accelerator == 'gpu' || self.gpuProduct.size() == 0",
            message="resources.gpuProduct has no meaning with accelerator: cpu; remove it, or use accelerator: gpu",
            holds=lambda r: r.accelerator == "gpu" or not r.gpu_product,
        ),
        Rule(
            cel="self.accelerator == 'cpu' || !has(self.processes)",
            message="resources.processes belongs to accelerator: cpu; with GPUs set gpus (one process per GPU)",
            holds=lambda r: r.accelerator == "cpu" or r.processes is None,
        ),
        Rule(
            cel="self.strategy != 'single' || ((!has(self.gpus) || self.gpus == 1) && (!has(self.processes) || self.processes == 1))",
            message="resources.strategy: single uses one process; set gpus (or processes) to 1, or choose ddp, fsdp, zero1, zero2 or zero3",
            holds=lambda r: r.strategy != Strategy.SINGLE or (r.gpus in (None, 1) and r.processes in (None, 1)),
        ),
        Rule(
            cel="self.offload in ['auto', 'none'] || self.accelerator == 'gpu'",
            message="resources.offload has no meaning with accelerator: cpu, whose memory is the host's; remove it, or use accelerator: gpu",
            holds=lambda r: r.offload in ("auto", "none") or r.accelerator == "gpu",
        ),
        Rule(
            cel="self.offload in ['auto', 'none', 'nvme'] || !(self.strategy in ['single', 'ddp'])",
            message="resources.offload: optimizer and parameters need strategy: fsdp, zero1, zero2 or zero3; change one, or set offload: none",
            holds=lambda r: r.offload in ("auto", "none", "nvme") or r.strategy not in (Strategy.SINGLE, Strategy.DDP),
        ),
        Rule(
            cel="self.offload != 'nvme' || self.strategy in ['auto', 'zero3']",
            message="resources.offload: nvme needs strategy: zero3, with which alone DeepSpeed swaps states to disks; set strategy: zero3, or use "
            "offload: optimizer with zero1 or zero2, parameters with fsdp",
            holds=lambda r: r.offload != "nvme" or r.strategy in ("auto", Strategy.ZERO3),
        ),
        Rule(
            cel="self.offload != 'optimizer' || self.strategy != 'fsdp'",
            message="resources.offload: optimizer: FSDP2 offloads all or nothing; use offload: parameters, or strategy: zero2 or zero3",
            holds=lambda r: r.offload != "optimizer" or r.strategy != Strategy.FSDP,
        ),
        Rule(
            cel="self.offload != 'parameters' || !(self.strategy in ['zero1', 'zero2'])",
            message="resources.offload: parameters: ZeRO-1 and ZeRO-2 offload the optimizer only; use offload: optimizer, or strategy: fsdp or zero3",
            holds=lambda r: r.offload != "parameters" or r.strategy not in (Strategy.ZERO1, Strategy.ZERO2),
        ),
        Rule(
            cel="!has(self.pods) || !has(self.processes) || self.processes % self.pods == 0",
            message="resources: processes is not a multiple of pods; choose numbers that divide evenly",
            holds=lambda r: r.pods is None or r.processes is None or r.processes % r.pods == 0,
        ),
        Rule(
            cel="!has(self.pods) || !has(self.gpus) || self.gpus % self.pods == 0",
            message="resources: gpus is not a multiple of pods; choose numbers that divide evenly",
            holds=lambda r: r.pods is None or r.gpus is None or r.gpus % r.pods == 0,
        ),
    )
