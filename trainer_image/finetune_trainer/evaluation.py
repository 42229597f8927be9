"""The loss and other measures of rows that are not trained, taken between steps without touching what training depends on.

Not transformers' evaluation loop: it averages the means of batches, so that its loss depends on how rows meet in batches and on the number of
processes, and its data loader draws random numbers. Here every counted token weighs the same, rows come in one fixed order, and nothing is drawn
(tests/trainer/test_evaluation.py compares the losses of a run with those of one that does not evaluate, bit for bit).
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import torch
from transformers import TrainerCallback

from finetune_operator.api.evaluation import EvaluationTimes
from finetune_operator.api.plan import Phase

LOG_ENTRIES_KEPT: Final = 200
"""transformers keeps every step's log in trainer_state.json; the run events have them all."""


def forget_old_entries(history: list[dict[str, Any]]) -> None:
    """Leave the newest entries of a log, and the evaluation of the base model, which stands beside that of the last step."""
    del history[int(bool(history) and history[0]["step"] == 0) : -LOG_ENTRIES_KEPT]


class Batch(NamedTuple):
    """Rows that one process looks at together."""

    rows: tuple[int, ...]
    counts: bool
    """False where there is nothing left for this process: sharded models need it to take part all the same."""


def batches_of(lengths: Sequence[int], size: int, rank: int, world_size: int) -> list[Batch]:
    """Return a rank's batches of up to `size` rows, equally many on all ranks; rows of a batch have about the same length."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches = [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    rounds = -(-len(batches) // world_size)
    return [
        Batch(batches[index], True) if index < len(batches) else Batch(batches[0], False)
        for index in range(rank, rounds * world_size, world_size)
    ]


def counted(batch: dict[str, Any]) -> int:
    """Return how much a batch's mean loss weighs: its counted tokens, of objectives without labels of tokens its rows."""
    labels = batch.get("labels")
    if labels is None or labels.dim() < 2:
        return len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
    return int((labels[:, 1:] != -100).sum())


class HeldOutMeasures(Protocol):
    """What one evaluation measures beside the loss, batch by batch."""

    def note(self, weight: int) -> None:
        """Hear that the trainer's model has seen a batch; one that weighs 0 is a repetition."""
        ...

    def total(self) -> dict[str, float]:
        """Return the measures of all ranks by name (finetune_operator.api.measures). Collective."""
        ...


class LoggedMeans:
    """Means that TRL's trainers log for each batch, weighed as the batch's loss is.

    TRL itself averages the means of batches, and has gathered them over ranks before: `local_batches` keeps it from that.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._names = trainer.context.recipe.held_out
        self._sums: dict[str, float] = defaultdict(float)
        self._weight = 0

    def note(self, weight: int) -> None:
        """Take what was logged, so that the next batch's is alone."""
        logged = getattr(self._trainer, "_metrics", {}).get("eval", {})
        for key, name in self._names.items() if weight else ():
            self._sums[name] += weight * logged[key][-1]
        logged.clear()
        self._weight += weight

    def total(self) -> dict[str, float]:
        """Return the weighted means."""
        parts = self._trainer.context.collective.gather((dict(self._sums), self._weight))
        whole = sum(weight for _, weight in parts)
        return {name: sum(sums.get(name, 0.0) for sums, _ in parts) / whole for name in self._names.values()}


@contextlib.contextmanager
def local_batches(accelerator: Any) -> Iterator[None]:
    """Let what a trainer measures of a batch be of this rank's batch alone."""
    accelerator.gather = accelerator.gather_for_metrics = lambda value, *_, **__: value
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics


class Evaluator:
    """Measures a trainer's model. Collective."""

    def __init__(self, trainer: Any, rows: Any, lengths: Sequence[int], collate: Callable[[list[Any]], Any]) -> None:
        context = trainer.context
        self._trainer, self.rows, self.collate = trainer, rows, collate
        size = trainer.evaluated_together
        self._batches = batches_of(lengths, size, context.place.rank, context.place.world_size)
        self.times = EvaluationTimes(context.attempt.spec.evaluation.every, context.attempt.plan.total_steps)

    def is_due(self, step: int) -> bool:
        """Whether the evaluation rows are looked at after this step: also before the first one, where that is what the base model is worth."""
        return self.times.is_due(step) or (step == 0 and self._trainer.context.recipe.scores_untrained)

    @property
    def has_ended(self) -> bool:
        """The training is over before the plan's last step."""
        return bool(self._trainer.context.writer.is_final)

    def report(self) -> dict[str, float]:
        """Measure the model and tell it; end the training where training.earlyStopping says so."""
        trainer, started = self._trainer, time.monotonic()
        loss, measures = self.measure()
        logs = {"eval_loss": loss, **{f"eval_{name}": value for name, value in measures.items()}}
        logs |= {"eval_rows": len(self.rows), "eval_seconds": round(time.monotonic() - started, 3)}
        trainer.model.eval()  # TRL logs what it has measured of the mode that the model is in
        trainer.log(dict(logs))
        trainer.model.train()
        context = trainer.context
        for _ in range(2):  # what layers took here is not the next step's; a GPU's events are told one call later
            context.own_time.take()
        context.telemetry.on_evaluation(trainer.state.global_step, loss, measures, time.monotonic() - started)
        self._stop_early(loss)
        return logs

    def _stop_early(self, loss: float) -> None:
        """Decide by what is remembered in transformers' own state, which checkpoints have: a resumed run ends at the same step."""
        trainer, context = self._trainer, self._trainer.context
        rule, state = context.attempt.spec.training.early_stopping, trainer.state
        step = state.global_step
        if rule is None or step == 0:
            return
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric, state.best_global_step = loss, step
        best = state.best_global_step
        if step < self.times.total_steps and rule.is_over(step, best, self.times.interval):
            trainer.control.should_training_stop = trainer.control.should_save = True
            context.writer.is_final = True
            if context.place.is_first:
                print(
                    f"the training ends after step {step} of {self.times.total_steps}: no evaluation was better than that of step {best} "
                    f"({state.best_metric:.6g}) for {rule.patience} evaluations (training.earlyStopping)",
                    flush=True,
                )

    def measure(self) -> tuple[float, dict[str, float]]:
        """Return the mean loss over all counted tokens of all ranks, and the measures beside it; the same numbers on each."""
        trainer, telemetry = self._trainer, self._trainer.context.telemetry
        was_training, phase = trainer.model.training, telemetry.phase
        trainer.model_wrapped.eval()
        telemetry.phase = Phase.EVALUATION
        sums = torch.zeros(2, dtype=torch.float64)
        measures = trainer.held_out_measures()
        with torch.no_grad(), local_batches(trainer.accelerator):
            for loss, weight in self._losses():
                sums += torch.tensor([loss * weight, weight], dtype=torch.float64)
                measures.note(weight)
        trainer.model_wrapped.train(was_training)
        telemetry.phase = phase
        # float32 would round the sums; not every backend gathers float64, and the ranks' objects are small.
        totals = [sum(parts) for parts in zip(*trainer.context.collective.gather(sums.tolist()), strict=True)]
        return float(totals[0] / totals[1]), measures.total()

    def _losses(self) -> Iterator[tuple[float, int]]:
        trainer = self._trainer
        for batch in self._batches:
            inputs = dict(self.collate([self.rows[row] for row in batch.rows]))
            weight = counted(inputs) if batch.counts else 0
            with trainer.compute_loss_context_manager():
                loss = float(trainer.compute_loss(trainer.model_wrapped, trainer._prepare_inputs(inputs)))
            trainer.context.watchdog.beat()
            yield (loss if weight else 0.0), weight


class EvaluationDue(TrainerCallback):
    """Asks transformers to evaluate when it is time. A pod that is stopped has no time: what it leaves out is made up for after the resume."""

    def __init__(self, evaluator: Evaluator, evaluate: Callable[[], object]) -> None:
        self._evaluator, self._evaluate = evaluator, evaluate

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Evaluate what the checkpoint's attempt was stopped before, and the base model."""
        step = state.global_step
        has_been = any("eval_loss" in entry and entry.get("step") == step for entry in state.log_history)
        if self._evaluator.is_due(step) and not has_been:
            self._evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        """Set transformers' own flag: it logs, evaluates and saves after this."""
        times = self._evaluator.times
        is_stopped = control.should_training_stop and state.global_step < times.total_steps
        control.should_evaluate = times.is_due(state.global_step) and not is_stopped
        if self._evaluator.has_ended:
            # By an evaluation that was made up for: the step after it is the last one, and its weights are published.
            control.should_evaluate = control.should_save = control.should_training_stop = True
        return control
