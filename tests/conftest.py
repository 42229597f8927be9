"""What tests of the API share, on the models and on a real API server: a good manifest, and the table of mistakes in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# How fast examples are drawn and run says how busy the machine is, not whether the code is right: programs in bench/ measure speed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

MISTAKES = yaml.safe_load((Path(__file__).parent / "bad_manifests.yaml").read_text())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mistake" in metafunc.fixturenames:
        metafunc.parametrize("mistake", MISTAKES, ids=[mistake["name"] for mistake in MISTAKES])


@pytest.fixture
def good_manifest() -> dict[str, Any]:
    return {
        "apiVersion": "finetune-operator.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "support-bot", "namespace": "default"},
        "spec": {
            "model": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"},
            "dataset": {"uri": "s3://data/support.jsonl"},
            "output": {"uri": "s3://models/support-bot"},
        },
    }


@pytest.fixture
def bad_manifest(good_manifest: dict[str, Any], mistake: dict[str, Any]) -> dict[str, Any]:
    manifest = copy.deepcopy(good_manifest)
    for path, value in mistake["set"].items():
        *parents, last = path.split(".")
        place = manifest
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return manifest
