"""The FineTuneJob itself, as the API server stores it and as `kubectl apply` sends it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator

from finetune_operator.api.constants import API_VERSION, KIND, MAXIMUM_NAME_LENGTH
from finetune_operator.api.model import ApiModel, ReadModel
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus


class InvalidJob(ValueError):
    """A manifest that cannot be used; the text names each field, its value and the remedy."""


class ObjectMeta(ReadModel):
    """The part of metadata that we read."""

    name: str = Field(min_length=1)
    namespace: str = "default"
    uid: str = ""
    generation: int = 1

    @field_validator("name")
    @classmethod
    def _name_fits_host_names(cls, name: str) -> str:
        if len(name) > MAXIMUM_NAME_LENGTH or "." in name:
            raise ValueError(
                f"metadata.name {name!r}: at most {MAXIMUM_NAME_LENGTH} characters and no dots, since pods' host names are made of it; shorten it"
            )
        return name


class FineTuneJob(ApiModel):
    """One fine-tuning job."""

    api_version: Literal["finetune-operator.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneJob"] = KIND
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: FineTuneJobStatus = Field(default_factory=FineTuneJobStatus)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Self:
        """Read a manifest.

        Raises:
            InvalidJob: with one line per problem that names the field, the value and the remedy.
        """
        try:
            return cls.model_validate(manifest)
        except ValidationError as error:
            raise InvalidJob("; ".join(_sentence(problem) for problem in error.errors(include_url=False))) from error


def _sentence(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{field}: is required; add it"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field; check its spelling (kubectl explain ftj.spec) or remove it"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{field}: {text}"
    value = problem.get("input")
    if problem["type"] == "string_type" and isinstance(value, int | float):
        return f"{field}: must be a text and is {value!r}; put it in quotes"
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"{field}: {text}{shown}"
