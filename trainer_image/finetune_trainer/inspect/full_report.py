"""The full report beside the model: every unusable row that was kept, where the operator's copy has the first fifty."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from finetune_operator.api.inspection import InspectionRequest
from finetune_trainer.inspect.survey import Survey
from finetune_trainer.storage import ObjectStorage


def write_full_report(target: ObjectStorage, request: InspectionRequest, survey: Survey) -> str:
    """Write `inspections/<key>.json` under the output folder and return where it is."""
    name = f"inspections/{request.key}.json"
    content = {
        "key": request.key,
        "job": f"{request.namespace}/{request.name}",
        "dataset": request.spec.dataset.uri,
        "rows": survey.rows,
        "dropped": survey.dropped,
        "droppedByReason": dict(survey.dropped_by_reason.most_common()),
        "filtered": survey.filtered,
        "filteredByReason": dict(survey.filtered_by_reason.most_common()),
        "truncated": survey.truncated,
        "duplicates": survey.duplicates,
        "problemsLeftOut": survey.dropped - len(survey.problems),
        "leftOut": [item.to_json_dict() for item in survey.left_out],
        "problems": [item.to_json_dict() for item in survey.problems],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        path.write_text(json.dumps(content, indent=1))
        target.upload(path, name)
    return target.child(name).uri
