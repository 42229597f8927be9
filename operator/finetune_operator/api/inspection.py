"""What the inspect pod is asked and what it reports: numbers, names and line numbers, never the content of a row."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pydantic import Field, JsonValue

from finetune_operator.api.architecture_trace import ArchitectureTrace
from finetune_operator.api.model import ReadModel
from finetune_operator.api.spec import FineTuneJobSpec

EXAMPLES_KEPT: Final = 50
HISTOGRAM_BUCKETS: Final = 64


class ProgressEndpoint(ReadModel):
    """Where a pod reports to."""

    url: str = Field(description="https URL of the operator's progress server, without a path.")
    certificate_authority: str = Field(description="PEM bundle that the server's certificate is checked against.")


class InspectionRequest(ReadModel):
    """What the inspect pod reads at REQUEST_PATH."""

    namespace: str
    name: str
    uid: str
    spec: FineTuneJobSpec
    key: str = Field(description="inspection_key of this spec; returned in the report.")
    progress: ProgressEndpoint | None = Field(None, description="Absent in local runs.")


class InputFile(ReadModel):
    """One file that was read, and what tells whether it is still the same."""

    uri: str
    size: int = Field(description="Bytes.")
    etag: str | None = Field(
        None, description="The store's ETag; of a local file its modification time in nanoseconds."
    )


class ModelLicense(ReadModel):
    """The licence as the model's card names it."""

    id: str = Field(description="Such as apache-2.0, or other.")
    name: str | None = Field(None, description="license_name, of other.")
    link: str | None = Field(None, description="license_link, of other.")


class InitialAdapter(ReadModel):
    """The adapter of a result that training goes on with, instead of new ones on the merged model."""

    uri: str = Field(description="Its folder.")
    files: tuple[InputFile, ...]
    chat_template: str | None = Field(
        None, description="The result's chat template (by name where it has one), where the base model has another."
    )


class Origin(ReadModel):
    """The finished job whose result a job starts from, as the manifest of that result tells."""

    job: str = Field(description="<namespace>/<name> of it.")
    uri: str = Field(description="The result's folder.")
    step: int = Field(description="Its last optimizer step.")
    objective: str = Field("", description="What it was trained for; empty in results of versions that did not tell.")
    method: str = Field("", description="Its tuning.method; empty likewise.")
    base: str = Field("", description="The model that it started from itself; empty likewise.")


class Lineage(Origin):
    """The same with what the trainer needs of it."""

    uid: str = Field(description="That job's uid.")
    adapter: InitialAdapter | None = Field(
        None, description="Absent where the result is started from as a whole model; else the model is that job's base."
    )


class ModelFacts(ReadModel):
    """What was learned about the model without reading its weights."""

    uri: str
    revision: str = Field(description="The commit for hf://, else empty.")
    architecture: str = Field(description="First entry of config.json's `architectures`, such as LlamaForCausalLM.")
    config: dict[str, JsonValue] = Field(
        description="config.json, without label maps and texts longer than 200 characters."
    )
    parameters: int = Field(description="Elements of all tensors, from the safetensors headers.")
    weight_bytes: int = Field(description="Bytes of all tensors as stored.")
    dtypes: dict[str, int] = Field(description="Elements by stored dtype, such as {BF16: 8030261248}.")
    files: tuple[InputFile, ...]
    has_chat_template: bool = False
    pooling: str | None = Field(
        None,
        description="How a text's vector is made of those of its tokens, where the model's folder says it (1_Pooling/config.json).",
    )
    license: ModelLicense | None = Field(None, description="Of the model's card (README.md), where it names one.")
    lineage: Lineage | None = Field(None, description="Where the model is the result of another job.")
    trace: ArchitectureTrace | None = Field(
        None, description="What the oracle measured, where the estimator has no table for the architecture."
    )
    trace_error: str | None = Field(None, description="Why the oracle, asked for a trace, has none.")


class RowProblem(ReadModel):
    """One row that cannot be used: where it is and why, without its content."""

    file: str
    line: int = Field(description="From 1.")
    reason: str


class TokenHistogram(ReadModel):
    """Lengths of rows in tokens, before truncation, in at most 64 buckets."""

    edges: tuple[int, ...] = Field(
        description="n + 1 ascending edges; bucket i holds lengths in [edges[i], edges[i+1])."
    )
    counts: tuple[int, ...] = Field(description="n counts.")
    minimum: int
    maximum: int
    mean: float
    median: int
    percentile_99: int
    total: int


class ScoreRange(ReadModel):
    """The scores of pairs."""

    minimum: float
    maximum: float


class PackedRows(ReadModel):
    """What packing would make of the rows, counted by the algorithm that training packs with."""

    sequences: int = Field(description="How many sequences of at most training.maxLength tokens.")
    longest: int = Field(description="Tokens of the longest of them.")


class EvaluationFacts(ReadModel):
    """What was learned about the rows to evaluate on."""

    rows: int = Field(description="Usable rows; of objective pretrain documents.")
    dropped: int = Field(
        0,
        description="Unusable rows of a data set of their own; of rows that were split off they are among dataset.dropped.",
    )
    longest: int = Field(description="Tokens of the longest row.")
    files: tuple[InputFile, ...] = Field((), description="Files of their own; none where the rows were split off.")


class SourceFacts(ReadModel):
    """What was learned about one of several data sets."""

    uri: str
    format: str = Field(description="The layout of its rows.")
    weight: float
    files: tuple[InputFile, ...]
    usable: int = Field(
        description="Its usable rows that filters leave in and that are not evaluated, each counted once."
    )
    rows: int = Field(
        description="How many of DatasetFacts.rows are its own: what its weight makes of the usable ones."
    )
    evaluated: int = Field(0, description="Its rows that are evaluated, split off or of its own evaluation.uri.")
    dropped: int = 0
    dropped_by_reason: dict[str, int] = Field(default_factory=dict)
    filtered: int = 0


class DatasetFacts(ReadModel):
    """What was learned about the data set, or all of them together, by reading every row."""

    uri: str = Field(description="Of several data sets all, with commas between.")
    format: str = Field(
        description="The layout of the rows: one of those of dataset.format; of several data sets all that there are, with commas between."
    )
    sources: tuple[SourceFacts, ...] = Field((), description="Each of several data sets, in the order of the spec.")
    files: tuple[InputFile, ...]
    rows: int = Field(
        description="Usable rows that are trained on; of objective pretrain the pieces of at most training.maxLength tokens that documents are "
        "cut into."
    )
    documents: int | None = Field(None, description="Usable documents, of objective pretrain alone.")
    evaluation: EvaluationFacts | None = Field(None, description="Of the rows to evaluate on, where there are some.")
    dropped: int = Field(0, description="Unusable rows.")
    dropped_by_reason: dict[str, int] = Field(default_factory=dict)
    filtered: int = Field(0, description="Rows that dataset.filters leave out; not among dropped.")
    filtered_by_reason: dict[str, int] = Field(default_factory=dict)
    problems: tuple[RowProblem, ...] = Field(
        (), description="The first 50 unusable rows; of several data sets an equal part of each."
    )
    truncated: int = Field(0, description="Rows longer than training.maxLength, which training cuts.")
    duplicates: int = Field(0, description="Rows that are equal to an earlier one.")
    tokens: TokenHistogram = Field(
        description="Lengths of rows (of objective pretrain: of pieces); a row with several texts counts as its longest, prompt and answer together."
    )
    sides: dict[str, TokenHistogram] = Field(
        default_factory=dict,
        description="Of rows with several texts: the lengths of each, such as chosen and rejected (with the prompt), or first and second.",
    )
    labels: dict[str, int] = Field(
        default_factory=dict,
        description="How often each label stands in the rows, in the order of their numbers; of kto true and false. At most 1000.",
    )
    scores: ScoreRange | None = Field(None, description="Of rows with a score, those that are trained.")
    packed: PackedRows | None = Field(None, description="Absent in reports of versions that did not pack.")


class ResumePoint(ReadModel):
    """The checkpoint that `checkpoint.resumeFrom` names: the newest there that is complete and fits the job."""

    uri: str = Field(description="Its folder.")
    job: str = Field(description="<namespace>/<name> of the job that wrote it.")
    step: int = Field(description="Optimizer steps that were finished.")
    strategy: str = Field(description="By which strategy its files were written.")
    processes: int = Field(description="How many processes wrote it.")
    offload: str = Field("none", description="What was in host memory or on local disk when it was written.")


class InspectionReport(ReadModel):
    """The inspect pod's whole answer; at most 256 KiB as JSON."""

    version: int = 1
    key: str = Field(description="inspection_key of the inspected spec.")
    job: str = Field(description="<namespace>/<name> of the job that was inspected first.")
    finished_at: str = Field(description="RFC 3339, UTC.")
    seconds: float = Field(description="How long it took.")
    model: ModelFacts
    dataset: DatasetFacts
    decisions: InputFile | None = Field(
        None,
        description="Which rows filters.deduplicate: semantic and filters.judge leave out, by number; the etag is the SHA-256. Absent without.",
    )
    report_uri: str | None = Field(None, description="Where the full report (every unusable row) is.")
    resume: ResumePoint | None = Field(None, description="Only with checkpoint.resumeFrom.")
    teacher: ModelFacts | None = Field(None, description="Of objective distill.")
    entailment_weight_bytes: int = Field(
        0, description="Bytes of the weights of evaluation.entailment's model as they are stored; 0: there is none."
    )
    reward_models: tuple[ModelFacts, ...] = Field(
        (), description="The models among training.grpo.rewards or training.rloo.rewards, in order."
    )
    reward_files: tuple[InputFile, ...] = Field(
        (),
        description="Keys of the ConfigMaps that functions among the rewards are in, as configmap:NAME/KEY; the etag is the SHA-256.",
    )


def inspection_key(namespace: str, spec: FineTuneJobSpec) -> str:
    """Return the digest (16 hex digits) of all that an inspection depends on.

    Two jobs of one namespace with equal keys get equal reports: model, data set, output target, objective, length, truncation, loss target, the
    rewards and the names of the secrets.
    """
    relevant: dict[str, JsonValue] = {
        "namespace": namespace,
        "model": spec.model.model_copy(update={"cache": None}).to_json_dict(),
        "dataset": None if spec.dataset is None else spec.dataset.to_json_dict(),
        "output": spec.output.to_json_dict(),
        "checkpoints": spec.checkpoint.uri,
        "maxLength": spec.training.max_length,
        "lossOn": spec.training.loss_on,
        "truncation": spec.training.truncation,
        "objective": spec.objective,
        "credentials": spec.credentials.to_json_dict(),
    }
    if spec.datasets is not None:
        # The seed decides which rows of a weight that is no whole number are learned.
        relevant["datasets"] = [spec.training.seed, *(dataset.to_json_dict() for dataset in spec.datasets)]
    if spec.checkpoint.resume_from is not None:
        # Whether a checkpoint fits depends on all of tuning and training.
        relevant["resumeFrom"] = [spec.checkpoint.resume_from, spec.tuning.to_json_dict(), spec.training.to_json_dict()]
    if spec.training.distill is not None:
        relevant["teacher"] = spec.training.distill.teacher.to_json_dict()
    if spec.training.online is not None:
        # Which prompts can be answered and judged, and by which models.
        relevant["online"] = spec.training.online.to_json_dict()
    if spec.evaluation.entailment is not None:
        relevant["entailment"] = spec.evaluation.entailment.to_json_dict()
    if spec.evaluation.harness is not None:
        required = spec.evaluation.require.tasks if spec.evaluation.require else ()
        named: list[JsonValue] = [each.name for each in required]
        relevant["harness"] = {**spec.evaluation.harness.to_json_dict(), "required": named}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
