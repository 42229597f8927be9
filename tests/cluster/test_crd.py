"""The CRD on a real API server: what must be refused is refused, with the words of the models."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from testbed.control_plane import ControlPlane
from testbed.operator_process import CRD, install_crd


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    install_crd(control_plane)
    return control_plane


def started(server: ControlPlane, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Create the job as one whose first attempt has started."""
    job = copy.deepcopy(manifest)
    job["metadata"]["name"] = name
    server.apply(job)
    status = {"status": {"startTime": "2026-01-01T00:00:00Z"}}
    patch = ["--subresource=status", "--type=merge", "-p", json.dumps(status)]
    server.kubectl("patch", "ftj", name, *patch)
    return job


def test_client_side_apply_works_too(server: ControlPlane) -> None:
    server.kubectl("apply", "--dry-run=server", "-f", str(CRD))


def test_a_minimal_manifest_gets_its_defaults(server: ControlPlane, good_manifest: dict[str, Any]) -> None:
    good_manifest["metadata"]["name"] = "minimal"
    server.apply(good_manifest)
    stored = server.get("ftj", "minimal")
    assert stored is not None
    assert stored["spec"]["training"]["globalBatchSize"] == 64
    assert stored["spec"]["tuning"]["method"] == "lora"


def test_a_mistake_is_refused_with_field_and_remedy(
    server: ControlPlane, mistake: dict[str, Any], bad_manifest: dict[str, Any]
) -> None:
    said = server.refusal(bad_manifest)
    for words in mistake["says"]:
        assert words in said


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"uri": "hf://other/model"}),
        ("dataset", {"uri": "s3://other/rows.jsonl"}),
        ("tuning", {"method": "full"}),
        ("training", {"seed": 7}),
        ("resources", {"gpus": 2}),
        ("output", {"uri": "s3://other/place"}),
        ("checkpoint", {"every": "5m"}),
    ],
)
def test_what_a_started_job_is_made_of_cannot_change(
    server: ControlPlane, good_manifest: dict[str, Any], part: str, change: dict[str, Any]
) -> None:
    job = started(server, good_manifest, f"started-{part}")
    job["spec"][part] = {**job["spec"].get(part, {}), **change}
    answer = server.try_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(job))
    assert answer.returncode != 0
    assert f"spec.{part} cannot change after the first attempt has started" in answer.stderr


def test_a_started_job_can_be_suspended(server: ControlPlane, good_manifest: dict[str, Any]) -> None:
    job = started(server, good_manifest, "started-suspend")
    job["spec"]["run"] = {"suspend": True, "retries": 5, "deadline": "12h"}
    server.apply(job)


def test_people_see_the_columns(server: ControlPlane, good_manifest: dict[str, Any]) -> None:
    good_manifest["metadata"]["name"] = "columns"
    server.apply(good_manifest)
    header = server.kubectl("get", "ftj").splitlines()[0].split()
    assert header == ["NAME", "STATE", "METHOD", "GPUS", "STEP", "LOSS", "ETA", "AGE"]


def test_kubectl_explains_every_field(server: ControlPlane) -> None:
    text = server.kubectl("explain", "ftj.spec.training.globalBatchSize")
    assert "Sequences per optimizer step" in text
