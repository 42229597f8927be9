"""The base of every API model: camelCase on the wire, frozen in memory, unknown fields refused.

A rule that spans fields is written once, as a `Rule`: its Python half runs wherever a model is read (CLI, pods, operator) and its CEL half
travels in the CRD, so that the API server refuses the same manifests with the same words.
"""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

_JSON_TYPES: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class Rule:
    """One condition on a model: `cel` for the API server and `holds` for Python, with one message that names field and remedy."""

    cel: str
    message: str
    holds: Callable[[Any], bool]


def text_rule(field: str, attribute: str, pattern: str, message: str) -> Rule:
    """Return the rule that a text field, where it is set, matches `pattern`; a bare `pattern` in the schema could not say what to do."""
    return Rule(
        cel=f"!has(self.{field}) || self.{field}.matches('{pattern}')",
        message=message,
        holds=lambda model: (text := getattr(model, attribute)) is None or re.search(pattern, text) is not None,
    )


class ApiModel(BaseModel):
    """A frozen value read from and written to JSON with camelCase names."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_enum_values=False,
        ser_json_inf_nan="constants",
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in type(self).rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_json_dict(self) -> dict[str, Any]:
        """Return what goes on the wire: camelCase, JSON types only, absent where there is no value."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class SpecModel(ApiModel):
    """A part of a job's spec: people write it, so that Python must refuse the types that the API server refuses."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_the_schema_says(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would convert and the API server refuses: "yes" or 1 for true, "8" for 8."""
        wanted = _plain_fields(cls).get(info.field_name or "")
        if wanted is None or value is None:
            return value
        if isinstance(value, str) or isinstance(value, bool) != (wanted is bool):
            said = "true or false" if wanted is bool else "a number"
            quoted = isinstance(value, str) and re.fullmatch(r"true|false|[-+.\de]+", value.strip(), re.IGNORECASE)
            raise PydanticCustomError(
                "json_type",
                f"must be of type {_JSON_TYPES[wanted]}: write {said}, without {'quotes' if quoted else 'words or units'}",
            )
        return value


@functools.cache
def _plain_fields(model: type[BaseModel]) -> Mapping[str, Any]:
    """Return the fields that hold one truth value or number, each with its Python type."""
    plain = {}
    for name, field in model.model_fields.items():
        types = [each for each in typing.get_args(field.annotation) or (field.annotation,) if each is not type(None)]
        if len(types) == 1 and types[0] in _JSON_TYPES:
            plain[name] = types[0]
    return plain


class ReadModel(ApiModel):
    """A model whose writer may be newer than its reader (status, reports): unknown fields are ignored, not refused."""

    model_config = ConfigDict(extra="ignore")
