"""The fake API server of the unit tests answers as a real one does, request for request."""

from __future__ import annotations

from pathlib import Path

import yaml
from testbed.control_plane import ControlPlane

from finetune_operator.controller.kube_client import KubernetesApi, load_configuration
from finetune_operator.testing import FakeApi
from finetune_operator.testing.scenario import transcript

CRD = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"
NAMESPACE = "scenario"


async def test_the_fake_and_a_real_server_give_the_same_answers(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "--server-side", "-f", str(CRD))
    control_plane.kubectl(
        "wait", "--for=condition=Established", f"crd/{CRD.stem}.finetune-operator.dev", "--timeout=30s"
    )
    control_plane.kubectl("create", "namespace", NAMESPACE)
    fake = await transcript(FakeApi(crds=[yaml.safe_load(CRD.read_text(encoding="utf-8"))]), "team")
    api = KubernetesApi(await load_configuration(str(control_plane.kubeconfig)))
    try:
        real = await transcript(api, NAMESPACE)
    finally:
        await api.close()
    assert real == fake
