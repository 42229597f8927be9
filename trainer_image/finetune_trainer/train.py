"""One rank of a training run, from its start to its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.constants import GRACE_PERIOD_VARIABLE
from finetune_operator.api.durations import parse_interval
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import ResumeEvent
from finetune_trainer.arguments import needs_cpu_backend
from finetune_trainer.attempt import Place, Workplace, read_attempt
from finetune_trainer.collective import Collective
from finetune_trainer.dataset import EncodedFiles, encode_dataset, load_dataset
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.hang_notice import Promise, leave_hung
from finetune_trainer.inputs import Beside, check_inputs, fetch_inputs, go_offline
from finetune_trainer.limits import Limits
from finetune_trainer.memory_shortage import shortage_at
from finetune_trainer.objectives import recipe_of
from finetune_trainer.objectives.recipe import Parts
from finetune_trainer.rank_files import RankError
from finetune_trainer.stopping import Stop
from finetune_trainer.storage import open_writable
from finetune_trainer.telemetry import Telemetry, node_name
from finetune_trainer.trackers.trackers import hide_unused_libraries
from finetune_trainer.watchdog import Watchdog


def train(plan_path: Path) -> NoReturn:
    """Run one rank and leave the process with its exit code.

    It leaves without Python's own shutdown: threads and communicators of a rank whose peers are gone may never join.
    """
    code = run_rank(plan_path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_rank(plan_path: Path, *, observers: Sequence[Any] = (), limits: Limits | None = None) -> int:
    """Run one rank; an error is written where `launch` finds it, and returned as its exit code. `observers` are further callbacks."""
    started = time.monotonic()
    place = Place.of()
    os.dup2(sys.stdout.fileno(), sys.stderr.fileno())  # one log per rank, in order
    run = None
    telemetry: Telemetry | None = None
    try:
        attempt = read_attempt(plan_path)
        workplace = Workplace.of(attempt)
        run = workplace.run
        grace = os.environ.get(GRACE_PERIOD_VARIABLE)
        stop = Stop(place.rank, run, grace_seconds=float(grace) if grace else None)
        stop.install()
        telemetry = Telemetry(attempt, place, run, started=started)
        telemetry.metrics.serve(attempt.metrics_port + place.local_rank)
        _Rank(attempt, place, workplace, telemetry, stop, observers, limits or Limits.of(os.environ)).run()
    except BaseException as error:  # every end of a rank must be told, also KeyboardInterrupt and SystemExit
        failure = failure_of(error)
        if run is not None:
            run.write_error(
                RankError(
                    rank=place.rank,
                    time=time.time(),
                    exit_code=failure.exit_code,
                    reason=failure.reason,
                    message=failure.message,
                    step=telemetry.step if telemetry else None,
                    memory_shortage=shortage_at(error, failure.exit_code, telemetry.phase if telemetry else None),
                )
            )
        if not isinstance(error, TrainerFailure):
            print(calls_of(error))
        print(f"rank {place.rank} ends with {failure.exit_code}: {failure.message}", flush=True)
        if telemetry is not None:
            telemetry.close()
        return int(failure.exit_code)
    return int(ExitCode.OK)


class _Rank:
    """The steps of a rank's life, in order."""

    def __init__(
        self,
        attempt: AttemptFile,
        place: Place,
        workplace: Workplace,
        telemetry: Telemetry,
        stop: Stop,
        observers: Sequence[Any],
        limits: Limits,
    ) -> None:
        self._attempt, self._place, self._workplace = attempt, place, workplace
        self._telemetry, self._stop, self._observers, self._limits = telemetry, stop, observers, limits
        self._collective = Collective(place.world_size)
        self._recipe = recipe_of(attempt.spec.objective)

    def run(self) -> None:
        """Fetch, import, load, resume, train, save."""
        with ThreadPoolExecutor(1, thread_name_prefix="inputs") as pool:
            # Downloads and encoding need no torch: they go on while it is imported, which takes 15 s and more.
            inputs = pool.submit(self._fetch)
            rows = pool.submit(self._encode, inputs)
            with self._badput("import"):
                self._import(inputs, rows)
            with self._badput("download"):
                model_folder, beside = inputs.result()
            with self._badput("encode"):
                encoded = rows.result()
            go_offline()
        with self._badput("load"):
            trainer_parts = self._load(model_folder, encoded)
        self._train(*trainer_parts, beside)

    def _fetch(self) -> tuple[Path, Beside]:
        if self._place.is_first:
            check_inputs(self._attempt)
        count = self._telemetry.metrics.count
        return fetch_inputs(self._attempt, self._workplace, lambda outcome: count(f"model_cache_{outcome}"))

    def _encode(self, inputs: Future[tuple[Path, Beside]]) -> EncodedFiles:
        inputs.result()  # without a model there is nothing to encode for
        return encode_dataset(self._attempt, self._workplace.data)

    def _import(self, *inputs: Future[Any]) -> None:
        plan = self._attempt.plan
        if plan.accelerator == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        elif plan.processes == 1:
            # transformers puts a lone process that sees several GPUs into DataParallel.
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        if needs_cpu_backend(plan):
            from finetune_trainer.cpu_backend import install

            install()
        hide_unused_libraries(self._attempt.spec.tracking)
        import transformers

        transformers.logging.set_verbosity_warning()
        transformers.logging.disable_progress_bar()
        import finetune_trainer.job_trainer  # noqa: F401 - imported here to measure it

        for done in (each for each in inputs if each.done()):
            done.result()  # a bad input ends the run before ranks meet

    def _load(self, model_folder: Path, rows: EncodedFiles) -> tuple[Any, Any, Any]:
        from finetune_trainer.modeling import empty_base_model, gather_by_layer, load_base_model, load_tokenizer
        from finetune_trainer.swapped_states import prepare_swapping
        from finetune_trainer.unfrozen import freeze_the_rest

        attempt = self._attempt
        prepare_swapping(attempt.plan, self._workplace.swap, self._place)
        empty = empty_base_model(attempt, model_folder)
        config = self._recipe.configuration(attempt, self._workplace.staging, loads_once=empty is not None)
        tokenizer = load_tokenizer(attempt, model_folder)
        model = load_base_model(attempt, model_folder) if empty is None or self._place.is_first else empty
        freeze_the_rest(attempt, model, self._collective)
        if attempt.plan.strategy is Strategy.ZERO3:
            gather_by_layer(config.hf_deepspeed_config.config, model)
        return config, (model, tokenizer), tuple(path and load_dataset(path) for path in rows)

    def _train(self, config: Any, loaded: tuple[Any, Any], rows: Any, beside: Beside) -> None:
        from finetune_trainer.checkpoint_reader import find_checkpoint
        from finetune_trainer.checkpoint_writer import CheckpointWriter
        from finetune_trainer.divergence import LossGuard
        from finetune_trainer.job_context import JobContext
        from finetune_trainer.modeling import adapter_config, load_adapter, restore_float_masters
        from finetune_trainer.other_layout import load_zero_of_others
        from finetune_trainer.own_time import OwnTime
        from finetune_trainer.phase_of_step import PhaseOfStep
        from finetune_trainer.step_boundary import SaveSchedule, StepBoundary
        from finetune_trainer.stragglers import PeerWatch

        attempt, place, telemetry, workplace = self._attempt, self._place, self._telemetry, self._workplace
        telemetry.know_nodes(self._collective.gather(node_name()))
        storage = open_writable(attempt.checkpoint_uri, self._limits.storage)
        with self._badput("resume"):
            found = find_checkpoint(
                attempt, place, storage, self._collective, workplace.resume, on_rejected=telemetry.on_rejected
            )
            load_zero_of_others(found.manifest, attempt.plan, place, self._collective, workplace.resume, config)
        step = found.manifest.step if found.manifest else 0
        if found.uri is not None:
            telemetry.on_resume(ResumeEvent(attempt=attempt.attempt, step=step, uri=found.uri))
        writer = CheckpointWriter(
            attempt,
            place,
            storage,
            self._collective,
            start=found.start,
            verified=found.folder,
            rejected=found.rejected,
            on_commit=telemetry.on_commit,
            on_failure=lambda problem: self._told("checkpoint_failures", problem),
            on_retry=lambda problem: self._told("checkpoint_retries", problem),
            patience=self._limits.upload,
        )
        is_over = found.folder is not None and found.manifest is not None and found.manifest.is_final
        if step >= attempt.plan.total_steps or is_over:
            print(f"all {step} steps are done and saved already", flush=True)
            return
        telemetry.track(workplace.tracking, step)
        guard, own_time = LossGuard(), OwnTime()
        boundary = StepBoundary(
            schedule=SaveSchedule(parse_interval(attempt.spec.checkpoint.every), time.monotonic(), step),
            total_steps=attempt.plan.total_steps,
            stop=self._stop,
            writer=writer,
            collective=self._collective,
            is_first=place.is_first,
            guard=guard,
            own_time=own_time,
            peers=PeerWatch(place.rank, place.world_size, telemetry.on_peers),
        )
        (model, tokenizer), (training_rows, evaluation_rows) = loaded, rows
        promise = Promise(workplace.run, place.rank)
        watchdog = Watchdog(
            lambda seconds: leave_hung(workplace.run, place.rank, telemetry.step, seconds),
            self._limits.hang,
            promise.renew,
        )
        trainer = self._recipe.trainer(
            JobContext(
                attempt,
                self._recipe,
                place,
                self._collective,
                telemetry,
                writer,
                self._stop,
                watchdog,
                guard,
                own_time,
                self._probes(found.manifest),
                evaluation_rows,
                beside.teacher,
                beside.reward_models,
                beside.functions,
            ),
            config,
            Parts(
                model,
                tokenizer,
                training_rows,
                adapter_config(attempt),
                [boundary, PhaseOfStep(telemetry), *self._observers],
            ),
        )
        if not attempt.spec.tuning.trains_base:
            restore_float_masters(trainer.model, attempt.spec.training.precision)
        if beside.adapter is not None and found.manifest is None:
            load_adapter(trainer.model, beside.adapter)
        trainer.train(resume_from_checkpoint=str(workplace.resume) if found.manifest else None)
        watchdog.stop()
        promise.withdraw()
        with self._badput("checkpoint"):
            writer.close()
        self._finish(boundary.stopped_at, is_saved=boundary.is_saved)

    def _probes(self, resumed: Manifest | None) -> bool:
        return self._attempt.spec.resources.probe and (not resumed or resumed.plan != self._attempt.plan.memory_key)

    def _finish(self, stopped_at: int | None, *, is_saved: bool) -> None:
        import torch

        from finetune_trainer.measure import device_memory

        memory = device_memory(torch)
        for rank, peak in enumerate(self._collective.gather(memory.peak)):
            self._telemetry.on_memory(rank, peak)
        if stopped_at is not None:
            unsaved = "without the time to save it; it goes on from the checkpoint before"
            said = f"after step {stopped_at}, {'which was saved; it goes on from there' if is_saved else unsaved}"
            raise TrainerFailure(ExitCode.TERMINATED, f"stopped from outside {said}")
        self._telemetry.close(memory)
        # Ranks leave together: torchrun takes one that is gone early for a reason to stop the others.
        self._collective.barrier()

    def _told(self, counter: str, problem: str) -> None:
        self._telemetry.metrics.count(counter)
        print(problem, flush=True)

    @contextlib.contextmanager
    def _badput(self, cause: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._telemetry.metrics.badput(cause, seconds)
        print(f"rank {self._place.rank}: {cause} {seconds:.1f} s", flush=True)
