"""Jobs that start from what others have published: trained one after the other, each inspected and planned as everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from finetune_operator.api.inspection import InspectionRequest, inspection_key
from finetune_operator.api.plan import GIB, AttemptFile, Plan, checkpoint_uri
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.plan import make_plan
from finetune_trainer.inspect.command import inspect
from finetune_trainer.testing_ranks import CaseResult, RankServer

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NODE: Final = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=4000, memory_bytes=24 * GIB),))
UID: Final = "{}-0000-4000-8000-000000000000"


class Finished(NamedTuple):
    """A job that was trained and published."""

    attempt: AttemptFile
    case: CaseResult
    result: Path

    @property
    def card(self) -> str:
        """Its model card."""
        return (self.result / "README.md").read_text()


def attempt_of(job: str, spec: FineTuneJobSpec) -> AttemptFile:
    uid = UID.format(job[-8:].rjust(8, "0"))
    request = InspectionRequest(namespace="team", name=job, uid=uid, spec=spec, key=inspection_key("team", spec))
    report = inspect(request)
    plan = make_plan(spec, report, NODE)
    assert isinstance(plan, Plan), plan
    return AttemptFile(
        namespace="team",
        name=job,
        uid=uid,
        attempt=1,
        spec=spec,
        inspection=report,
        plan=plan,
        checkpoint_uri=checkpoint_uri(spec, job, uid),
        metrics_port=0,
    )


def finish(ranks: RankServer, folder: Path, job: str, spec: dict[str, Any]) -> Finished:
    """Train and publish a job below a folder."""
    output = folder / job / "out"
    parsed = FineTuneJobSpec.model_validate({**spec, "output": {**spec.get("output", {}), "uri": f"file://{output}"}})
    attempt = attempt_of(job, parsed)
    case = ranks.run(attempt, folder / job / "run")
    assert case.statuses == (0,) * case.processes, case.log()
    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(case.folder))
    assert answer["code"] == 0, answer["termination"]
    return Finished(attempt, case, output)


def example(name: str, rows: Path, **parts: Any) -> tuple[str, dict[str, Any]]:
    """Name and spec of an example on rows of its own, without what is for clusters."""
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    spec = {**manifest["spec"], **parts}
    spec["dataset"] = {"uri": f"file://{rows}"}
    spec.pop("credentials")
    spec.pop("output")
    return manifest["metadata"]["name"], spec
