"""What local runs have published, by the job's name: `model.uri: ftj://NAME` finds a result on this machine as it does in a namespace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from finetune_operator.api.chains import source_of, starting_at
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.manifest_file import UnreadableManifest, reason_of

RESULT_FILE: Final = "result.json"


def remember_result(run: Path, uri: str) -> None:
    """Note in a run's folder that it has published a model."""
    (run / RESULT_FILE).write_text(json.dumps({"uri": uri}) + "\n")


def with_found_model(spec: FineTuneJobSpec, folder: Path) -> FineTuneJobSpec:
    """Return the spec with the place of the result that `model.uri: ftj://NAME` names; any other is returned as it is.

    Of several finished runs of that name the one that ended last is meant.

    Raises:
        UnreadableManifest: none of them has finished.
    """
    name = source_of(spec)
    if name is None:
        return spec
    named = re.compile(rf"{re.escape(name)}-[0-9a-f]{{8}}")
    results = [path for path in folder.glob(f"*/{RESULT_FILE}") if named.fullmatch(path.parent.name)]
    if not results:
        raise UnreadableManifest(
            f"model.uri: ftj://{name}: no run of job {name} has finished in {folder}; run it first (finetune run -f its manifest), or name the "
            "place of its result"
        )
    newest = max(results, key=lambda path: path.stat().st_mtime_ns)
    try:
        uri = json.loads(newest.read_text())["uri"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnreadableManifest(f"{newest}: cannot be read: {reason_of(error)}; run job {name} again") from error
    return starting_at(spec, str(uri))
