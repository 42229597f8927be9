"""How a job is run: when it saves, where the result goes, how long and how often it may try."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from finetune_operator.api.durations import INTERVAL_PATTERN
from finetune_operator.api.gguf import GgufType
from finetune_operator.api.locations import (
    HUB_PATTERN,
    OCI_PATTERN,
    WRITABLE_PATTERN,
    Duration,
    Location,
    duration,
    writable,
)
from finetune_operator.api.model import Rule, SpecModel, text_rule


class Checkpoint(SpecModel):
    """When and where the state of the training is saved."""

    every: Duration = Field(
        "10m", description="How often: a duration such as 10m, or a number of steps such as 500steps. Default 10m."
    )
    keep: int = Field(
        2, ge=1, le=100, description="How many verified checkpoints are kept; the newest is never deleted. Default 2."
    )
    uri: Location | None = Field(None, description="Where checkpoints go. Default: checkpoints under output.uri.")
    resume_from: Location | None = Field(
        None,
        description="Start from another job's checkpoint: its folder (step-00000100/1), or the folder of that job's checkpoints, whose newest is "
        "taken. Model, tuning and training must be the same but for epochs or maxSteps. Default: the job's own checkpoints alone.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "every",
            "every",
            INTERVAL_PATTERN,
            "checkpoint.every: write a duration such as 10m, or a number of steps such as 500steps",
        ),
        writable("checkpoint.uri"),
        text_rule(
            "resumeFrom",
            "resume_from",
            WRITABLE_PATTERN,
            "checkpoint.resumeFrom: needs the URI of a checkpoint with one of the schemes s3, gs, az, such as "
            "s3://bucket/model/checkpoints/job-1a2b3c4d (file:// in local runs)",
        ),
    )


class Output(SpecModel):
    """Where the result goes."""

    uri: Location = Field(
        description="The folder of the finished model: s3://, gs:// or az:// (file:// in local runs)."
    )
    if_exists: Literal["fail", "overwrite"] = Field(
        "fail",
        description="What happens when another job's model is there: the inspection fails, or it is overwritten. Default fail.",
    )
    merge: bool = Field(
        True,
        description="Also publish the base model with the adapter merged in (lora, qlora, ia3; prompt and prefix have nothing to merge), "
        "loadable on its own. Default true.",
    )

    gguf: tuple[GgufType, ...] = Field(
        (),
        max_length=2,
        description="Also publish the whole model as GGUF files for llama.cpp, in each of these types: f16, q8_0. Default: none.",
    )

    oci: str | None = Field(
        None,
        max_length=512,
        description=(
            "Also push the result to this OCI registry, as registry/repository:tag, with the login of credentials.registry. Default: nowhere."
        ),
    )

    hub: str | None = Field(
        None,
        max_length=193,
        description=(
            "Also commit the result to this repository of the model hub, as org/name, with HF_TOKEN of credentials.model; a repository that is "
            "missing is created private. Default: nowhere."
        ),
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        writable("output.uri"),
        text_rule("hub", "hub", HUB_PATTERN, "output.hub: write org/name, such as my-team/support-bot, without hf://"),
        text_rule(
            "oci",
            "oci",
            OCI_PATTERN,
            "output.oci: write registry/repository:tag, such as registry.example.com/team/model:v1, without https:// and in lower case",
        ),
        Rule(
            cel="!has(self.gguf) || self.gguf.size() == 0 || self.merge",
            message="output.gguf: a GGUF file holds the merged model; set merge: true, or remove output.gguf",
            holds=lambda output: not output.gguf or output.merge,
        ),
        Rule(
            cel="!has(self.gguf) || self.gguf.all(kind, self.gguf.exists_one(other, other == kind))",
            message="output.gguf: a type is named twice; remove one",
            holds=lambda output: len(set(output.gguf)) == len(output.gguf),
        ),
    )


class Run(SpecModel):
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

    rules: ClassVar[tuple[Rule, ...]] = (
        duration("run.deadline", "deadline", "deadline"),
        duration("run.ttlAfterFinished", "ttlAfterFinished", "ttl_after_finished"),
    )
