"""What Helm makes of the chart, without a cluster; each set of values is rendered once."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from testbed import tools
from testbed.processes import output

CHART = Path(__file__).resolve().parents[3] / "charts" / "finetune-operator"
Body = dict[str, Any]


@cache
def _rendered(values: str) -> tuple[Body, ...]:
    command = [tools.path("helm"), "template", "finetune-operator", CHART, "--namespace", "operators", "--values", "-"]
    return tuple(body for body in yaml.safe_load_all(output(*command, stdin=values)) if body)


def render(values: Body | None = None) -> tuple[Body, ...]:
    """The objects that Helm makes of the chart with these values, for namespace `operators`; no cluster is asked."""
    return _rendered(json.dumps(values or {}))


def only(kind: str, values: Body | None = None, name: str = "") -> Body:
    """The one object of a kind whose name contains `name`."""
    (body,) = [b for b in render(values) if b["kind"] == kind and name in b["metadata"]["name"]]
    return body
