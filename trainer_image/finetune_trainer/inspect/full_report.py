"""The full report beside the model: every unusable row that was kept, where the operator's copy has the first fifty."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from finetune_operator.api.inspection import InspectionRequest
from finetune_trainer.inspect.data_sets import SurveyedDataset
from finetune_trainer.inspect.survey import Survey
from finetune_trainer.storage import ObjectStorage


def write_full_report(
    target: ObjectStorage, request: InspectionRequest, found: Sequence[SurveyedDataset], survey: Survey
) -> str:
    """Write `inspections/<key>.json` under the output folder and return where it is."""
    name = f"inspections/{request.key}.json"
    content = {
        "key": request.key,
        "job": f"{request.namespace}/{request.name}",
        "dataset": request.spec.data_uri,
        "sources": [
            {
                "uri": each.dataset.uri,
                "format": each.layout,
                "weight": each.dataset.weight,
                "usable": each.survey.used,
                "rows": each.survey.rows,
                "dropped": each.survey.dropped,
                "droppedByReason": dict(each.survey.dropped_by_reason.most_common()),
                "filtered": each.survey.filtered,
            }
            for each in found
        ],
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
