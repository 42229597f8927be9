"""A job that starts from the main job's result and runs a script of its own: two containers in a pod of a real kubelet, a crash, a recovery."""

from __future__ import annotations

import textwrap
from typing import Any

from testbed.main_job import NAMESPACE, Story, again, finish, manifest_of, submit
from testbed.node import NodeCluster
from testbed.s3 import S3Server

SCRIPT = """
import os, pathlib, sys, time
saved = pathlib.Path(os.environ["FINETUNE_CHECKPOINT_FOLDER"]) / "checkpoint-5"
if not saved.exists():
    saved.mkdir()
    (saved / "state").write_text(os.environ["PET_NODE_RANK"])
    time.sleep(8)
    sys.exit(7)
result = pathlib.Path(os.environ["FINETUNE_RESULT_FOLDER"])
(result / "model.bin").write_text("goes on from rank " + (saved / "state").read_text())
"""


def test_a_script_starts_from_another_jobs_result_and_goes_on_after_a_crash(
    team_cluster: NodeCluster, undisturbed: Story, images: Any, s3_server: S3Server
) -> None:
    manifest = again(
        "own-script",
        spec__model__uri="ftj://word-problems",
        spec__trainer={"image": images.trainer, "command": ["python", "-c", textwrap.dedent(SCRIPT)]},
        spec__resources={"accelerator": "cpu", "processes": 1, "pods": 1, "strategy": "single"},
    )

    status = finish(team_cluster, submit(team_cluster, manifest))["status"]

    assert status["source"]["uid"] == undisturbed.job["metadata"]["uid"]
    assert status["inspection"]["lineage"]["job"] == f"{NAMESPACE}/word-problems"
    first, second = status["attempts"]
    assert (first["result"], first["reason"], second["result"]) == ("Failed", "TrainerError", "Succeeded")
    assert "exited with 7" in first["message"]
    assert {entry["name"] for entry in manifest_of(s3_server, "own-script")["files"]} == {"README.md", "model.bin"}
    body = s3_server.client().get_object(Bucket="models", Key="own-script/model.bin")["Body"].read()
    assert body == b"goes on from rank 0"
