"""Where things lie: URIs of models, data and results, names of cluster objects, and the rules that their fields share."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import StringConstraints

from finetune_operator.api.durations import DURATION_PATTERN
from finetune_operator.api.model import Rule, text_rule

LOCATION_PATTERN: Final = "^(hf|s3|gs|az|file)://[!-~]+$"
WRITABLE_PATTERN: Final = "^(s3|gs|az|file)://[!-~]+$"
CHAIN_SCHEME: Final = "ftj://"
MODEL_PATTERN: Final = "^((hf|s3|gs|az|file)://[!-~]+|ftj://[a-z0-9]([-a-z0-9]{0,43}[a-z0-9])?)$"
"""A place, or the name of a job (at most 45 characters, constants.py) whose result is meant."""
HUB_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
OCI_PATTERN: Final = "^[a-z0-9.-]+(:[0-9]+)?/[a-z0-9]+([._/-]+[a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
OBJECT_NAME_PATTERN: Final = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Location = Annotated[str, StringConstraints(max_length=1024)]
Duration = Annotated[str, StringConstraints(max_length=16)]
ObjectName = Annotated[str, StringConstraints(max_length=253)]


def readable(path: str, example: str) -> Rule:
    """Return the rule that field `uri` of the object at `path` can be read."""
    message = f"{path}: needs a URI with one of the schemes hf, s3, gs, az, such as {example} (file:// in local runs)"
    return text_rule("uri", "uri", LOCATION_PATTERN, message)


def startable(path: str) -> Rule:
    """Return the rule that field `uri` of the object at `path` names a model that a job can start from."""
    message = (
        f"{path}: needs a URI with one of the schemes hf, s3, gs, az, such as hf://org/name or s3://bucket/folder (file:// in local runs), or "
        "ftj://NAME for the result of the job NAME of this namespace"
    )
    return text_rule("uri", "uri", MODEL_PATTERN, message)


def writable(path: str) -> Rule:
    """Return the rule that field `uri` of the object at `path` can be written."""
    message = (
        f"{path}: needs a URI with one of the schemes s3, gs, az, such as s3://bucket/folder (file:// in local runs)"
    )
    return text_rule("uri", "uri", WRITABLE_PATTERN, message)


def duration(path: str, field: str, attribute: str) -> Rule:
    """Return the rule that `field` (in Python `attribute`) is a duration."""
    message = f"{path}: write a whole number and a unit (s, m, h, d), such as 90s, 10m, 24h or 7d"
    return text_rule(field, attribute, DURATION_PATTERN, message)
