"""What the pods told of the evaluation after the training, as `status.evaluation` shows it."""

from __future__ import annotations

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import EvaluatedFigure, EvaluationStatus
from finetune_operator.jobs.observed import Observed


def evaluation_status(job: FineTuneJob, observed: Observed) -> EvaluationStatus | None:
    """Return the newest evaluation that a pod's last words have; None while there is none."""
    told = [pod.termination.evaluation for pod in observed.pods if pod.termination and pod.termination.evaluation]
    if not told:
        return None
    evaluated = max(told, key=lambda each: each.step)
    required = job.spec.evaluation.require.given if job.spec.evaluation.require else {}
    return EvaluationStatus(
        step=evaluated.step,
        rows=evaluated.rows,
        figures=[
            EvaluatedFigure(
                name=figure.name,
                base=None if figure.base is None else f"{figure.base:.4g}",
                tuned=f"{figure.tuned:.4g}",
                required=required.get(figure.name),
            )
            for figure in evaluated.figures
        ],
    )
