"""What the evaluation of the last step has measured, as the final checkpoint has it: of objectives that are judged by it (api/measures.py).

No model is asked again: these are the final weights, and the history is a file of the checkpoint, written with it and verified as all of
them are. So it does not matter which attempt made the last step, nor what was killed since.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_operator.api.evaluated import Evaluated, Figure
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.after_training.results import keep
from finetune_trainer.attempt import Workplace
from finetune_trainer.export import HISTORY_FILE
from finetune_trainer.final_checkpoint import final_checkpoint
from finetune_trainer.storage import open_writable

Entry = Mapping[str, Any]
"""Of transformers' `log_history`: `eval_<measure>`, and `step`."""


def held_out_evaluation(attempt: AttemptFile, workplace: Workplace) -> Evaluated:
    """Return what the last step's evaluation has measured, beside the untrained model where that was measured too; kept in the bucket.

    It is read anew by every attempt: a final checkpoint that was damaged, and made again, has its own.
    """
    manifest = final_checkpoint(attempt, workplace, history_files)
    history = json.loads((workplace.resume / HISTORY_FILE).read_text())["log_history"]
    last = evaluation_after(manifest.step, history)
    evaluated = Evaluated(
        uid=attempt.uid,
        step=manifest.step,
        rows=last.get("eval_rows", 0),
        seconds=round(last.get("eval_seconds", 0.0), 2),
        figures=figures_of(attempt.spec.held_out_measures, last, evaluation_after(0, history)),
    )
    keep(open_writable(attempt.checkpoint_uri), evaluated)
    return evaluated


def history_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """Return the file of a checkpoint that has the history."""
    return tuple(entry for entry in manifest.files if entry.name == HISTORY_FILE)


def evaluation_after(step: int, history: Sequence[Entry]) -> Entry:
    """Return the entry of the evaluation after a step; an empty one where there was none."""
    found = [entry for entry in history if entry.get("step") == step and "eval_loss" in entry]
    return found[-1] if found else {}


def figures_of(names: Sequence[str], last: Entry, first: Entry) -> tuple[Figure, ...]:
    """Return the numbers of the last evaluation that are finite, in the order of `names`, beside those of the first."""
    found = []
    for name in names:
        tuned, base = (entry.get(f"eval_{name}", math.nan) for entry in (last, first))
        if math.isfinite(tuned):
            found.append(Figure(name=name, base=base if math.isfinite(base) else None, tuned=tuned))
    return tuple(found)
