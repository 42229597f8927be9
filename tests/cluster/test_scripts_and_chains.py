"""A job that starts from the main job's result and runs a script of its own in two pods of a real kubelet: a crash, a recovery of both folders."""

from __future__ import annotations

import textwrap
from typing import Any

from testbed.main_job import NAMESPACE, Story, again, finish, manifest_of, submit
from testbed.node import NodeCluster
from testbed.s3 import S3Server

SCRIPT = """
import json, os, pathlib, sys, time
from finetune_trainer.storage import open_writable
rank = os.environ["PET_NODE_RANK"]
saved = pathlib.Path(os.environ["FINETUNE_CHECKPOINT_FOLDER"]) / "checkpoint-5"
if not saved.exists():
    saved.mkdir()
    (saved / f"state-{rank}").write_text(rank)
    bucket = open_writable(json.loads(pathlib.Path(os.environ["FINETUNE_PLAN"]).read_text())["checkpointUri"])
    for second in range(180):
        if any(file.name.endswith("/manifest.json") for file in bucket.list()):
            sys.exit(7)
        time.sleep(1)
    sys.exit("no checkpoint was committed")
states = " ".join(sorted(path.read_text() for path in saved.iterdir()))
(pathlib.Path(os.environ["FINETUNE_RESULT_FOLDER"]) / f"model-{rank}.bin").write_text("goes on from ranks " + states)
"""


def test_a_script_starts_from_another_jobs_result_and_every_pod_goes_on_after_a_crash(
    team_cluster: NodeCluster, undisturbed: Story, images: Any, s3_server: S3Server
) -> None:
    manifest = again(
        "own-script",
        spec__model__uri="ftj://word-problems",
        spec__trainer={"image": images.trainer, "command": ["python", "-c", textwrap.dedent(SCRIPT)]},
        spec__resources={"accelerator": "cpu", "processes": 2, "pods": 2, "strategy": "ddp"},
        spec__checkpoint={"every": "1steps"},
    )

    status = finish(team_cluster, submit(team_cluster, manifest))["status"]

    assert status["source"]["uid"] == undisturbed.job["metadata"]["uid"]
    assert status["inspection"]["lineage"]["job"] == f"{NAMESPACE}/word-problems"
    first, second = status["attempts"]
    assert (first["result"], first["reason"], second["result"]) == ("Failed", "TrainerError", "Succeeded")
    assert "exited with 7" in first["message"]
    assert {entry["name"] for entry in manifest_of(s3_server, "own-script")["files"]} == {
        "README.md",
        "model-0.bin",
        "model-1.bin",
    }
    for pod in range(2):
        body = s3_server.client().get_object(Bucket="models", Key=f"own-script/model-{pod}.bin")["Body"].read()
        assert body == b"goes on from ranks 0 1"
