"""The operator's own settings, from environment variables that the chart sets; each with its unit and default."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from finetune_operator.api.constants import PROGRESS_PORT
from finetune_operator.api.inspection import ProgressEndpoint
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.controller.lease import LeaseSettings
from finetune_operator.jobs.desired import RenderSettings


class InvalidSettings(ValueError):
    """An environment variable is absent or unusable; the text names each, and what it should be."""


class OperatorSettings(BaseModel):
    """One field per environment variable; the variable's name is the field's in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    operator_namespace: str = Field(min_length=1)
    """The namespace this process runs in: its Lease is there."""
    pod_name: str = Field(default_factory=socket.gethostname, min_length=1)
    """Identity in the Lease and in Events."""
    watch_namespaces: tuple[str, ...] = ()
    """Comma-separated namespaces whose jobs are reconciled; empty: all."""
    inspect_image: str = Field(min_length=1)
    """Image of inspect pods."""
    trainer_image: str = Field(min_length=1)
    """Image of training and publish pods."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of all pods of jobs."""
    image_pull_secrets: tuple[str, ...] = ()
    """Comma-separated Secrets (in the jobs' namespaces) with registry credentials."""
    node_cache_path: str = Field("", pattern=r"^(/[^/]+)*$")
    """Folder on every node in which jobs may keep models (`model.cache: {node: true}`, a hostPath volume); empty: refused."""
    progress_url: str = Field(pattern=r"^https://[^/]+$")
    """Where pods report to, such as https://finetune-operator-progress.finetune-operator.svc:8443; no path."""
    progress_ca_file: Path
    """PEM bundle that the progress server's certificate is checked against; it travels to the pods."""
    tls_directory: Path
    """Folder with tls.crt and tls.key of the progress server; changed files are loaded again."""
    progress_port: int = Field(PROGRESS_PORT, ge=0, le=65535)
    """Port of the progress server (TLS)."""
    health_port: int = Field(8080, ge=0, le=65535)
    """Port of /livez, /readyz and /metrics (plain HTTP)."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of our own log lines; those of kopf are shown from WARNING on, since it logs one per event."""
    workers: int = Field(8, ge=1, le=64)
    """Jobs that are reconciled at the same time."""
    resync_seconds: float = Field(600.0, ge=10)
    """Between two full lists; every job is looked at once in that time."""
    api_timeout_seconds: float = Field(15.0, gt=0, le=60)
    """For one request to the API server."""
    lease_name: str = Field("finetune-operator", min_length=1)
    """The Lease by which replicas elect a leader."""
    planner_prices: Prices = NO_PRICES
    """What GPUs cost, as JSON: {"currency": "EUR", "perGpuHour": {"NVIDIA-L4": 0.8}}."""
    history_name: str = Field("finetune-operator-history", min_length=1)
    """The ConfigMap in the operator's namespace that keeps what finished jobs have measured."""
    lease_duration_seconds: float = Field(15.0, gt=0)
    """How long other replicas wait after the leader's last renewal."""
    lease_renew_deadline_seconds: float = Field(10.0, gt=0)
    """How long the leader tries to renew before it ends itself; below the duration."""
    lease_retry_seconds: float = Field(2.0, gt=0)
    """Between two tries; below the deadline."""

    @field_validator("planner_prices", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return Prices.model_validate_json(value) if isinstance(value, str) else value

    @field_validator("watch_namespaces", "image_pull_secrets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _lease_durations_ascend(self) -> Self:
        if not self.lease_retry_seconds < self.lease_renew_deadline_seconds < self.lease_duration_seconds:
            raise ValueError(
                "LEASE_RETRY_SECONDS < LEASE_RENEW_DEADLINE_SECONDS < LEASE_DURATION_SECONDS must hold; the defaults are 2, 10 and 15"
            )
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; an empty one counts as absent.

        Raises:
            InvalidSettings: with every variable that is absent or unusable.
        """
        given = {name: environment[name.upper()] for name in cls.model_fields if environment.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = (_sentence(str(next(iter(found["loc"]), "")), found["msg"]) for found in error.errors())
            raise InvalidSettings("; ".join(problems)) from error

    @property
    def lease(self) -> LeaseSettings:
        """The settings of the leader election."""
        return LeaseSettings(
            namespace=self.operator_namespace,
            name=self.lease_name,
            identity=self.pod_name,
            duration_seconds=self.lease_duration_seconds,
            renew_deadline_seconds=self.lease_renew_deadline_seconds,
            retry_seconds=self.lease_retry_seconds,
        )


def _sentence(name: str, message: str) -> str:
    return f"{name.upper()}: {message}" if name else message.removeprefix("Value error, ")


class RenderSource:
    """The settings that children are rendered with; the CA bundle is read again when its file changes."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._version: tuple[float, int] | None = None
        self._rendered = self()

    def __call__(self) -> RenderSettings:
        """Return the settings as they are now.

        Raises:
            InvalidSettings: the CA bundle is not there; the text names the file.
        """
        path = self._settings.progress_ca_file
        try:
            stat = path.stat()
            version = (stat.st_mtime, stat.st_size)
            if version != self._version:
                self._rendered = self._render(path.read_text(encoding="ascii"))
                self._version = version
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"PROGRESS_CA_FILE: {path} is not a readable PEM bundle: {error}") from error
        return self._rendered

    def _render(self, certificate_authority: str) -> RenderSettings:
        return RenderSettings(
            inspect_image=self._settings.inspect_image,
            trainer_image=self._settings.trainer_image,
            progress=ProgressEndpoint(url=self._settings.progress_url, certificate_authority=certificate_authority),
            image_pull_policy=self._settings.image_pull_policy,
            image_pull_secrets=self._settings.image_pull_secrets,
            node_cache_path=self._settings.node_cache_path,
        )
