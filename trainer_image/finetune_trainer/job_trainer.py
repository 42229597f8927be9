"""What every objective's trainer has: our checkpoints, our measurements and our proof of sharding, over transformers' Trainer."""

from __future__ import annotations

import contextlib
import copy
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from finetune_operator.api.compatibility import SHARDED_STRATEGIES, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import GIB
from finetune_trainer.capture import UNWANTED, Capture, HostCopies
from finetune_trainer.divergence import not_finite
from finetune_trainer.epoch_order import EpochBeginnings, EpochOrder
from finetune_trainer.evaluation import EvaluationDue, Evaluator, HeldOutMeasures, LoggedMeans, forget_old_entries
from finetune_trainer.export import EXPORT_FOLDER, export_sharded
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.full_disk import disk_failure
from finetune_trainer.job_context import JobContext
from finetune_trainer.measure import device_memory
from finetune_trainer.modeling import keep_float_losses, optimizer_class
from finetune_trainer.other_layout import (
    is_sharded,
    load_model_shards,
    load_optimizer_shards,
    load_saved_model,
    load_whole_model,
    load_whole_optimizer,
)
from finetune_trainer.probe import longest_rows, probe_longest_batch
from finetune_trainer.rank_random import derived_seed, has_own_state
from finetune_trainer.swapped_states import load_swapped, save_swapped
from finetune_trainer.telemetry import StepRecord
from finetune_trainer.wrapping import check_wrapping


class JobTraining(transformers.Trainer):
    """One rank's trainer, to be mixed in before the class of a library: `class SupervisedTrainer(JobTraining, SFTTrainer)`."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        super().__init__(**arguments)
        own_optimizer = optimizer_class(context.attempt, self.model)
        if own_optimizer is not None:
            self.optimizer_cls_and_kwargs: Any = own_optimizer
        keep_float_losses(self.accelerator)
        self._order = self.make_order(context)
        self.add_callback(EpochBeginnings(self._order))
        self.context = context
        self._copies = HostCopies()
        self._step_started = time.monotonic()
        self._data_wait = 0.0
        self._tokens_before = 0.0
        self.evaluator: Evaluator | None = None
        if (rows := context.evaluation_rows) is not None:
            # A copy, for packing changes the collator and these rows are never packed.
            self.evaluator = Evaluator(self, rows, context.lengths(rows), copy.copy(self.data_collator))
            self.add_callback(EvaluationDue(self.evaluator, self.evaluate))

    def evaluate(self, *arguments: Any, **others: Any) -> dict[str, float]:
        """Measure the model on the evaluation rows, which takes no time of a step."""
        if self.evaluator is None:
            raise AssertionError("only EvaluationDue asks for an evaluation")
        started = time.monotonic()
        logs = self.evaluator.report()
        self.control.should_evaluate = False  # transformers asks once more at the end of an epoch
        self._step_started += time.monotonic() - started
        return logs

    def make_order(self, context: JobContext) -> EpochOrder:
        """Return the order in which an epoch takes its sequences."""
        plan, training = context.attempt.plan, context.attempt.spec.training
        lengths = context.lengths(self.train_dataset) if training.group_by_length and not plan.packed else None
        return EpochOrder(len(self.train_dataset), plan.global_batch_size, training.seed, lengths)

    def _prepare_for_training(self, *arguments: Any, **others: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments, **others)
        attempt, place = self.context.attempt, self.context.place
        said = check_wrapping(
            attempt.plan.strategy, self.model_wrapped, self.optimizer, place.world_size, attempt.plan.offload
        )
        print(f"rank {place.rank}: {said}", flush=True)
        resumed_from = Path(arguments[2]) if len(arguments) > 2 and arguments[2] is not None else None
        load_swapped(self.model_wrapped, resumed_from, place.rank)
        self.before_training(resumed_from)
        if self.context.probes:
            self._probe(has_optimizer_state=resumed_from is not None)
        if place.world_size > 1 and attempt.plan.strategy is not Strategy.ZERO3:
            self.context.own_time.watch_layers(self.model)
        # From here on SIGTERM waits for the end of a step.
        self.context.stop.is_training = True
        self.context.watchdog.start()
        self._step_started = time.monotonic()
        return prepared

    @property
    def evaluated_together(self) -> int:
        """How many evaluation rows one process looks at together."""
        return int(self.args.per_device_train_batch_size)

    def held_out_measures(self) -> HeldOutMeasures:
        """Return what an evaluation measures beside the loss."""
        return LoggedMeans(self)

    def before_training(self, resumed_from: Path | None) -> None:
        """Do what needs the wrapped model, for a class that has something to do; the checkpoint of that folder is loaded. Collective."""

    def save_beside(self, folder: Path) -> None:
        """Write what a class wants to find again when a checkpoint is resumed into its folder, by `torch.save`."""

    def try_beside(self) -> None:
        """Do what takes memory in a step beside the longest batch; part of the trial before step 1."""

    def longest_batch(self) -> tuple[dict[str, Any], int]:
        """Return a micro-batch of the longest rows, and its length in tokens."""
        rows = longest_rows(self.train_dataset, self.args.per_device_train_batch_size, self.context.recipe.lengths)
        batch = dict(self.data_collator([self.train_dataset[row] for row in rows]))
        return batch, batch["input_ids"].shape[-1]

    def _probe(self, *, has_optimizer_state: bool) -> None:
        context, started = self.context, time.monotonic()
        length = probe_longest_batch(self, context.telemetry, has_optimizer_state=has_optimizer_state)
        seconds = time.monotonic() - started
        context.telemetry.metrics.badput("probe", seconds)
        plan, peak = context.attempt.plan, device_memory(torch).peak
        print(
            f"rank {context.place.rank}: the longest batch ({plan.micro_batch_size} × {length} tokens) fits: peak {peak / GIB:.2f} GiB, "
            f"{plan.memory.expected_bytes / GIB:.2f} expected; {seconds:.1f} s"
            if length
            else f"rank {context.place.rank}: the longest batch is not tried, since DeepSpeed's optimizer state was loaded",
            flush=True,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load weights, also those that were saved with the other layout."""
        checkpoint = Path(resume_from_checkpoint)
        if is_sharded(checkpoint) != self.is_fsdp_enabled:
            load = load_whole_model if self.is_fsdp_enabled else load_model_shards
            load(self.model, checkpoint)
        elif self.is_fsdp_enabled or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_saved_model(self.model, checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load their states, also those that were saved with the other layout."""
        if checkpoint is None or self.is_deepspeed_enabled or is_sharded(Path(checkpoint)) == self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load = load_whole_optimizer if self.is_fsdp_enabled else load_optimizer_shards
        load(self.model, self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Give a rank without a state of its own (the checkpoint is of fewer processes) a derived one; transformers leaves it what it has."""
        place = self.context.place
        if checkpoint is None or has_own_state(Path(checkpoint), place.rank, place.world_size):
            super()._load_rng_state(checkpoint)
            return
        step = self.state.global_step
        transformers.set_seed(derived_seed(self.context.attempt.spec.training.seed, step, place.rank))
        print(f"random numbers of rank {place.rank} are derived from seed, step {step} and rank", flush=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        return self._order

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Measure how long the step waits for its batches (counting their tokens over all ranks is in it)."""
        started = time.monotonic()
        own = self.context.own_time.batches(epoch_iterator)
        samples = super().get_batch_samples(own, num_batches, device)
        self.note_batches(samples[0], device)
        self._data_wait = time.monotonic() - started
        return samples

    def note_batches(self, batches: list[Any], device: Any) -> None:
        """Hear which micro-batches the next step is made of."""

    def tokens_of_step(self, logs: dict[str, float]) -> int:
        """Return how many tokens of all ranks the step had; TRL's trainers log the sum of all steps."""
        return round(logs.get("num_tokens", 0.0) - self._tokens_before)

    def measures_in(self, logs: dict[str, Any]) -> dict[str, float]:
        """Return what the library has logged beside the loss, by our names."""
        known = self.context.recipe.measures
        return {name: logs[key] for key, name in known.items() if logs.get(key) is not None}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hear what each step was like; a loss or gradient that is not finite ends the run before it is saved."""
        super().log(logs, start_time)
        forget_old_entries(self.state.log_history)
        if "loss" not in logs:
            return
        now = time.monotonic()
        norm = logs.get("grad_norm")
        record = StepRecord(
            step=self.state.global_step,
            loss=logs["loss"],
            learning_rate=logs.get("learning_rate", 0.0),
            gradient_norm=norm,
            tokens=self.tokens_of_step(logs),
            seconds=now - self._step_started,
            data_wait_seconds=self._data_wait,
            measures=self.measures_in(logs),
        )
        self._check(record)
        self.context.watchdog.step(record.seconds)
        self.context.telemetry.on_step(record, device_memory(torch))
        self._tokens_before = logs.get("num_tokens", 0.0)
        self._step_started = now

    def _check(self, record: StepRecord) -> None:
        """Raise when the training has diverged."""
        spec, guard = self.context.attempt.spec, self.context.guard
        problem = not_finite(record.step, record.loss, record.gradient_norm)
        if problem is None and spec.training.stop_on_divergence:
            if guard.last_usual_step == 0:
                guard.resume(entry["loss"] for entry in self.state.log_history[:-1] if "loss" in entry)
            guard.hear(record.step, record.loss)
            problem = guard.explosion(record.step, record.loss)
        if problem is not None:
            raise TrainerFailure(
                ExitCode.DIVERGED,
                f"{problem}; lower training.learningRate (now {spec.learning_rate:g}) or raise training.warmup, and look at the data; the "
                f"checkpoints from before are kept at {self.context.attempt.checkpoint_uri}",
            )
        if not guard.is_suspect:
            self.context.writer.proven_before = record.step

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave out of every checkpoint what DeepSpeed writes itself, and ZeRO-3 would gather for it; the last one has the export."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        context, started = self.context, time.monotonic()
        step = self.state.global_step
        is_last = self.control.should_training_stop or step >= context.attempt.plan.total_steps
        context.guard.is_withholding = context.guard.is_suspect and not is_last
        if context.guard.is_withholding:
            print(f"no checkpoint of step {step}: its loss is far above what is usual, and may stay there", flush=True)
            return
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{step}"
        try:
            with context.watchdog.saving():
                self._stage_and_begin(model, folder, trial, started)
        except Exception as error:
            failure = disk_failure(folder, f"the checkpoint of step {step}", error)
            if failure is None:
                raise
            # What is left of it takes the space in which this rank must say why it ends.
            shutil.rmtree(folder, ignore_errors=True)
            raise failure from error
        seconds = time.monotonic() - started
        context.telemetry.metrics.badput("checkpoint", seconds)
        context.telemetry.metrics.set("checkpoint_stall_seconds", seconds)
        self._step_started += seconds

    def _stage_and_begin(self, model: Any, folder: Path, trial: Any, started: float) -> None:
        context = self.context
        context.writer.give_up_retrying()
        # At most one upload at a time: a second would double what is staged. Only the last save ever waits here (step_boundary.py), and a
        # slow store is no hang.
        context.writer.finish(context.watchdog.beat)
        capture = Capture(folder, self._copies)
        in_memory = context.attempt.plan.resources.staging_bytes > 0
        with capture.instead_of_writing() if in_memory else contextlib.nullcontext():
            # Not those of TRL's trainers, which write a model card of TRL's into each checkpoint.
            transformers.Trainer._save_checkpoint(self, model, trial)
            self.save_beside(folder)
            save_swapped(self.model_wrapped, folder, context.place.rank)
            if (
                self.state.global_step >= context.attempt.plan.total_steps or context.writer.is_final
            ) and context.attempt.plan.strategy in SHARDED_STRATEGIES:
                capture.training_is_over = True
                export_sharded(
                    self.model,
                    self.processing_class,
                    folder / EXPORT_FOLDER,
                    is_first=context.place.is_first,
                    held=capture.files,
                )
        (folder / UNWANTED).unlink(missing_ok=True)
        context.collective.barrier()
        held = sum(file.size for file in capture.files.values())
        print(
            f"rank {context.place.rank}: {held} bytes of step {self.state.global_step} are copied to host memory in "
            f"{time.monotonic() - started:.2f} s",
            flush=True,
        )
        context.writer.begin(self.state.global_step, folder, started, capture.files)
