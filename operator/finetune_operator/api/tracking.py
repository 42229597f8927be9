"""Where a job's curves go beside the bucket: experiment trackers, each with its login in a Secret."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_operator.api.locations import OBJECT_NAME_PATTERN, ObjectName
from finetune_operator.api.model import Rule, SpecModel, text_rule


def _secret(path: str) -> Rule:
    return text_rule(
        "secret",
        "secret",
        OBJECT_NAME_PATTERN,
        f"{path}.secret is the name of a Secret in the job's namespace (lower-case letters, digits, - and .); never write a key here",
    )


class Wandb(SpecModel):
    """Weights & Biases."""

    project: str = Field(min_length=1, max_length=128, description="The project that the run is of.")
    entity: str | None = Field(None, min_length=1, max_length=128, description="Its team or user. Default: the key's.")
    secret: ObjectName | None = Field(
        None,
        description="Secret with WANDB_API_KEY (and WANDB_BASE_URL of an own server): the run is told while it goes on. Without it the run is "
        "written offline, to be sent from the bucket by `wandb sync`. Default: offline.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (_secret("tracking.wandb"),)


class Mlflow(SpecModel):
    """MLflow."""

    uri: str = Field(max_length=1024, description="The tracking server, such as https://mlflow.example.com.")
    experiment: str = Field(
        min_length=1, max_length=500, description="The experiment that the run is of; made if missing."
    )
    secret: ObjectName | None = Field(
        None,
        description="Secret with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Default: no login.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        _secret("tracking.mlflow"),
        text_rule(
            "uri",
            "uri",
            "^https?://[^@ ]+$",
            "tracking.mlflow.uri: write the server's http:// or https:// address without a login; that belongs into tracking.mlflow.secret",
        ),
    )


class Comet(SpecModel):
    """Comet."""

    project: str = Field(min_length=1, max_length=128, description="The project that the experiment is of.")
    workspace: str | None = Field(None, min_length=1, max_length=128, description="Its workspace. Default: the key's.")
    secret: ObjectName | None = Field(
        None,
        description="Secret with COMET_API_KEY: the experiment is told while it goes on. Without it an archive is written when the attempt ends, "
        "to be sent from the bucket by `comet upload`. Default: offline.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (_secret("tracking.comet"),)


class Tracking(SpecModel):
    """Trackers beside TensorBoard, whose event files every job has in its bucket."""

    wandb: Wandb | None = Field(None, description="Weights & Biases.")
    mlflow: Mlflow | None = Field(None, description="MLflow.")
    comet: Comet | None = Field(None, description="Comet.")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the Secrets whose keys the training pods get as environment variables."""
        return tuple(one.secret for one in (self.wandb, self.mlflow, self.comet) if one is not None and one.secret)
