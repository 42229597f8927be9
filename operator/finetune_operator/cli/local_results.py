"""What local runs have published, by the job's name: `ftj://NAME` finds a result on this machine as it does in a namespace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from finetune_operator.api.chains import model_fields, named_job, starting_at
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.manifest_file import UnreadableManifest, reason_of

RESULT_FILE: Final = "result.json"


def remember_result(run: Path, uri: str) -> None:
    """Note in a run's folder that it has published a model."""
    (run / RESULT_FILE).write_text(json.dumps({"uri": uri}) + "\n")


def with_found_models(spec: FineTuneJobSpec, folder: Path) -> FineTuneJobSpec:
    """Return the spec with the place of each result that `ftj://NAME` names; one that names none is returned as it is.

    Of several finished runs of that name the one that ended last is meant.

    Raises:
        UnreadableManifest: none of them has finished.
    """
    named = {name: field for field, uri in reversed(model_fields(spec)) if (name := named_job(uri)) is not None}
    return starting_at(spec, {name: _newest_result(name, field, folder) for name, field in named.items()})


def _newest_result(name: str, field: str, folder: Path) -> str:
    named = re.compile(rf"{re.escape(name)}-[0-9a-f]{{8}}")
    results = [path for path in folder.glob(f"*/{RESULT_FILE}") if named.fullmatch(path.parent.name)]
    if not results:
        raise UnreadableManifest(
            f"{field}: ftj://{name}: no run of job {name} has finished in {folder}; run it first (finetune run -f its manifest), or name the "
            "place of its result"
        )
    newest = max(results, key=lambda path: path.stat().st_mtime_ns)
    try:
        return str(json.loads(newest.read_text())["uri"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnreadableManifest(f"{newest}: cannot be read: {reason_of(error)}; run job {name} again") from error
