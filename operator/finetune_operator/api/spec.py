"""What a user writes: the spec of a FineTuneJob.

A field exists only when the whole product obeys it. Field docstrings become the CRD's descriptions (`kubectl explain ftj.spec`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from finetune_operator.api.compatibility import Method, Objective, Strategy
from finetune_operator.api.durations import DURATION_PATTERN, INTERVAL_PATTERN
from finetune_operator.api.model import ApiModel, Rule

DEFAULT_EPOCHS: Final = 3.0
DEFAULT_LEARNING_RATES: Final = {Method.FULL: 1e-5, Method.LORA: 2e-4, Method.QLORA: 2e-4}
"""Used where training.learningRate is absent. Adapters take about ten times the rate of full fine-tuning (QLoRA paper, table 9; LoRA paper, D)."""

LOCATION_PATTERN: Final = r"^(hf|s3|gs|az|file)://[^\s]+$"
WRITABLE_PATTERN: Final = r"^(s3|gs|az|file)://[^\s]+$"

Location = Annotated[str, StringConstraints(pattern=LOCATION_PATTERN, max_length=1024)]
WritableLocation = Annotated[str, StringConstraints(pattern=WRITABLE_PATTERN, max_length=1024)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=16)]
Interval = Annotated[str, StringConstraints(pattern=INTERVAL_PATTERN, max_length=16)]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class ModelSource(ApiModel):
    """The model to start from."""

    uri: Location = Field(
        description="Where the model is: hf://org/name, or a folder at s3://, gs://, az:// (file:// in local runs)."
    )
    revision: str = Field(
        "main",
        max_length=200,
        description="Branch, tag or commit of an hf:// model; the inspection resolves it to a commit, which status records. Default main.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model's repository brings. Default false: such a model is refused."
    )


class Columns(ApiModel):
    """Names of the data set's columns, where they differ from the format's own."""

    messages: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the list of messages (format messages)."
    )
    prompt: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the prompt (format prompt-completion)."
    )
    completion: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the answer (format prompt-completion)."
    )
    instruction: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the instruction (format alpaca)."
    )
    input: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the optional input (format alpaca)."
    )
    output: str | None = Field(
        None, min_length=1, max_length=100, description="The column with the answer (format alpaca)."
    )


class Filters(ApiModel):
    """Which rows are used, and how many may be unusable."""

    max_dropped: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The share of rows (0 to 1) that may be unusable before the job fails. Default 0.05; 0 allows none.",
    )


class Dataset(ApiModel):
    """The rows to learn from."""

    uri: Location = Field(
        description="A JSONL file at s3://, gs://, az:// or hf://datasets/org/name/path (file:// in local runs); a * matches several files."
    )
    format: Literal["auto", "messages", "prompt-completion", "alpaca"] = Field(
        "auto",
        description="How a row is laid out. Default auto: detected from the columns of the first rows, and reported in status.",
    )
    columns: Columns = Field(
        default_factory=Columns, description="Names of the columns, where they differ from the format's own."
    )
    filters: Filters = Field(default_factory=Filters, description="Which rows are used, and how many may be unusable.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.columns.prompt) != has(self.columns.completion))",
            message="dataset.columns: prompt and completion go together; name both or neither",
            holds=lambda d: (d.columns.prompt is None) == (d.columns.completion is None),
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'prompt-completion' || !has(self.columns.prompt)",
            message="dataset.columns.prompt belongs to format prompt-completion; set dataset.format: prompt-completion or remove it",
            holds=lambda d: d.format in ("auto", "prompt-completion") or d.columns.prompt is None,
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'messages' || !has(self.columns.messages)",
            message="dataset.columns.messages belongs to format messages; set dataset.format: messages or remove it",
            holds=lambda d: d.format in ("auto", "messages") or d.columns.messages is None,
        ),
        Rule(
            cel="self.format == 'auto' || self.format == 'alpaca' || !has(self.columns.instruction)",
            message="dataset.columns.instruction belongs to format alpaca; set dataset.format: alpaca or remove it",
            holds=lambda d: d.format in ("auto", "alpaca") or d.columns.instruction is None,
        ),
    )


class Lora(ApiModel):
    """Low-rank adapters (methods lora and qlora)."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of the adapters. Default 16.")
    alpha: int = Field(
        32, ge=1, le=4096, description="Scale: the adapter's output is multiplied by alpha / rank. Default 32."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter, 0 to 1. Default 0.")
    targets: list[Annotated[str, StringConstraints(min_length=1, max_length=100)]] = Field(
        default_factory=lambda: ["all-linear"],
        min_length=1,
        max_length=50,
        description="Names of the modules that get adapters, such as q_proj. Default all-linear: every linear layer but the output head.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!('all-linear' in self.targets) || self.targets.size() == 1",
            message="tuning.lora.targets: all-linear stands alone; remove the other names or remove all-linear",
            holds=lambda lora: "all-linear" not in lora.targets or len(lora.targets) == 1,
        ),
    )


class Tuning(ApiModel):
    """Which parameters are trained."""

    method: Method = Field(
        Method.LORA,
        description="full trains every weight, lora small adapters beside 16-bit weights, qlora the same beside 4-bit weights. Default lora.",
    )
    lora: Lora | None = Field(None, description="Settings of the adapters; only with method lora or qlora.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.method != 'full' || !has(self.lora)",
            message="tuning.lora has no meaning with tuning.method: full; remove it or use method: lora",
            holds=lambda t: t.method is not Method.FULL or t.lora is None,
        ),
    )

    @property
    def adapter(self) -> Lora:
        """The adapters' settings, with defaults where the spec has none."""
        return self.lora or Lora()


class Training(ApiModel):
    """How the training goes."""

    epochs: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="How often every row is seen; 3 where neither epochs nor maxSteps is set. Not with maxSteps.",
    )
    max_steps: int | None = Field(None, ge=1, description="How many optimizer steps are made. Not with epochs.")
    global_batch_size: int = Field(
        64,
        ge=1,
        le=65536,
        description="Sequences per optimizer step, over all GPUs; the plan splits it into micro-batch, accumulation and ranks. Default 64.",
    )
    max_length: int = Field(
        2048,
        ge=8,
        le=1048576,
        description="Tokens of the longest sequence; longer rows are cut on the right. Default 2048.",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Peak learning rate. Default by method: 2e-4 for lora and qlora, 1e-5 for full."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up. Default cosine."
    )
    warmup: float = Field(
        0.03, ge=0, description="Warm-up: a fraction of all steps when below 1, else a number of steps. Default 0.03."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay of AdamW. Default 0.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm. Default 1.")
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description="Compute precision. bf16 keeps trained weights in float32 and computes in bfloat16. Default bf16.",
    )
    loss_on: Literal["completions", "all"] = Field(
        "completions",
        description="Which tokens the loss counts: the answers alone, or prompts as well. Default completions.",
    )
    seed: int = Field(42, ge=0, le=2147483647, description="Seed of weights, data order and dropout. Default 42.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            message="training: epochs and maxSteps exclude each other; remove one",
            holds=lambda t: t.epochs is None or t.max_steps is None,
        ),
    )

    @property
    def epochs_or_default(self) -> float:
        """The epochs that apply where `max_steps` is not set."""
        return DEFAULT_EPOCHS if self.epochs is None else self.epochs


class Resources(ApiModel):
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
    strategy: Literal["auto", "single", "ddp", "fsdp", "zero2"] = Field(
        "auto",
        description="How states are spread: one process, copies (ddp), fully sharded (fsdp), or DeepSpeed ZeRO stage 2. Default auto: planned.",
    )
    micro_batch_size: int | None = Field(
        None, ge=1, le=4096, description="Sequences per GPU at a time. Default: planned."
    )
    gradient_checkpointing: Literal["auto", "none", "full"] = Field(
        "auto",
        description="Compute activations again in the backward pass (full) instead of keeping them (none). Default auto: planned.",
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
            message="resources.strategy: single uses one process; set gpus (or processes) to 1, or choose ddp, fsdp or zero2",
            holds=lambda r: r.strategy != Strategy.SINGLE or (r.gpus in (None, 1) and r.processes in (None, 1)),
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


class Checkpoint(ApiModel):
    """When and where the state of the training is saved."""

    every: Interval = Field(
        "10m", description="How often: a duration such as 10m, or a number of steps such as 500steps. Default 10m."
    )
    keep: int = Field(
        2, ge=1, le=100, description="How many verified checkpoints are kept; the newest is never deleted. Default 2."
    )
    uri: WritableLocation | None = Field(
        None, description="Where checkpoints go. Default: checkpoints under output.uri."
    )


class Output(ApiModel):
    """Where the result goes."""

    uri: WritableLocation = Field(
        description="The folder of the finished model: s3://, gs:// or az:// (file:// in local runs)."
    )
    if_exists: Literal["fail", "overwrite"] = Field(
        "fail",
        description="What happens when another job's model is there: the inspection fails, or it is overwritten. Default fail.",
    )
    merge: bool = Field(
        True,
        description="Also publish the base model with the adapter merged in (lora, qlora), loadable on its own. Default true.",
    )


class Run(ApiModel):
    """How long and how often the job may run. All of it may be changed while it runs."""

    suspend: bool = Field(
        False, description="Stop the pods after a save and keep everything; false goes on from there. Default false."
    )
    deadline: Duration | None = Field(
        None, description="Longest time in all from the first attempt's start, such as 24h. Default: none."
    )
    ttl_after_finished: Duration | None = Field(
        None, description="Delete the FineTuneJob this long after its end, such as 7d; the model stays. Default: never."
    )
    retries: int = Field(
        3,
        ge=0,
        le=100,
        description="How many failed attempts are followed by another; evictions and replans are not counted. Default 3.",
    )


class Scheduling(ApiModel):
    """How the cluster schedules the pods."""

    priority_class: str | None = Field(
        None, min_length=1, max_length=253, description="PriorityClass of the training pods. Default: the cluster's."
    )


class SecretReference(ApiModel):
    """A Secret in the job's namespace; its keys become environment variables of the job's pods."""

    secret: SecretName = Field(description="Name of the Secret.")


class Credentials(ApiModel):
    """Secrets for model, data and output. The operator never reads them; only the job's pods do."""

    model: SecretReference | None = Field(None, description="Secret with HF_TOKEN for hf:// locations.")
    storage: SecretReference | None = Field(
        None,
        description=(
            "Secret for buckets: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; or GOOGLE_SERVICE_ACCOUNT_KEY; "
            "or AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY."
        ),
    )
    service_account: SecretName | None = Field(
        None,
        description="ServiceAccount of the job's pods (workload identity for buckets). Default: the namespace's default.",
    )


class EnvironmentVariable(ApiModel):
    """One environment variable with a literal value; secrets belong into credentials."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100, description="Name of the variable.")
    value: str = Field("", max_length=4096, description="Its value.")


class Toleration(ApiModel):
    """A toleration, as in a pod's spec."""

    key: str | None = Field(None, max_length=316, description="Taint key; absent with operator Exists matches all.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Default Equal.")
    value: str | None = Field(None, max_length=63, description="Taint value (operator Equal).")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Absent matches all effects."
    )
    toleration_seconds: int | None = Field(None, description="How long a NoExecute taint is tolerated, in seconds.")


class Pod(ApiModel):
    """What is added to every pod of the job."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the pods.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations of the pods.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Node labels that the pods need.")
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=50, description="Taints that the pods tolerate."
    )
    env: list[EnvironmentVariable] = Field(
        default_factory=list, max_length=100, description="Environment variables of the containers."
    )


class FineTuneJobSpec(ApiModel):
    """What to train, on what, how, and where the result goes; everything else is planned."""

    objective: Objective = Field(
        Objective.SFT, description="What is optimised: sft, supervised fine-tuning. Default sft."
    )
    model: ModelSource = Field(description="The model to start from.")
    dataset: Dataset = Field(description="The rows to learn from.")
    tuning: Tuning = Field(default_factory=Tuning, description="Which parameters are trained.")
    training: Training = Field(default_factory=Training, description="How the training goes.")
    resources: Resources = Field(
        default_factory=Resources, description="What the job may use; what is left out is planned."
    )
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="When and where the state of the training is saved."
    )
    output: Output = Field(description="Where the result goes.")
    run: Run = Field(default_factory=Run, description="How long and how often the job may run.")
    scheduling: Scheduling = Field(default_factory=Scheduling, description="How the cluster schedules the pods.")
    credentials: Credentials = Field(default_factory=Credentials, description="Secrets for model, data and output.")
    pod: Pod = Field(default_factory=Pod, description="What is added to every pod of the job.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.tuning.method != 'qlora' || self.resources.strategy != 'zero2'",
            message="resources.strategy: zero2 does not shard the 4-bit weights of tuning.method: qlora; use strategy: ddp or fsdp",
            holds=lambda s: s.tuning.method is not Method.QLORA or s.resources.strategy != Strategy.ZERO2,
        ),
        Rule(
            cel="self.tuning.method != 'qlora' || self.training.precision == 'bf16'",
            message="training.precision: tuning.method: qlora computes in bf16; set precision: bf16 or use method: lora",
            holds=lambda s: s.tuning.method is not Method.QLORA or s.training.precision == "bf16",
        ),
    )

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, from the spec or by method."""
        return self.training.learning_rate or DEFAULT_LEARNING_RATES[self.tuning.method]


IMMUTABLE_AFTER_START: Final = (
    "objective",
    "model",
    "dataset",
    "tuning",
    "training",
    "resources",
    "checkpoint",
    "output",
    "credentials",
)
"""Parts of the spec that cannot change once `status.startTime` is set; run, scheduling and pod may: they apply from the next attempt on."""
