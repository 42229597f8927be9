"""`finetune run`: the way of a job on this machine, with the same inspection, plan, trainer and retry policy as in a cluster.

The folder of a run is named after the job's content, so that the same manifest given again goes on where an interrupted run stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import InspectionReport, InspectionRequest, inspection_key
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import AttemptFile, Plan, PlanError, checkpoint_uri
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.run_events import RunEvent
from finetune_operator.cli.attempt_progress import attempt_progress
from finetune_operator.cli.exit_codes import BAD_INPUT, NO_PLAN
from finetune_operator.cli.local_config_maps import add_config_map, changed, folders_of, known_files, linked
from finetune_operator.cli.local_machine import inventory_of_this_machine
from finetune_operator.cli.local_results import remember_result, with_found_models
from finetune_operator.cli.manifest_file import (
    UnreadableManifest,
    add_filename,
    read_job,
    reason_of,
    with_absolute_locations,
)
from finetune_operator.cli.run_history import finished_run, history_in, remember
from finetune_operator.cli.run_report import RunRecord
from finetune_operator.cli.tables import inspection_table, memory_comparison_table, plan_table
from finetune_operator.cli.trainer_process import Ending, TrainerProcess
from finetune_operator.jobs.retry import GiveUp, next_after_failure
from finetune_operator.memory.architecture import architecture_of
from finetune_operator.planner.history import FinishedRun
from finetune_operator.planner.replan import RanOut, next_plan


class RunFailed(Exception):
    """The run ended without a model; the text says why and what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `finetune run`."""
    add_filename(parser)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".finetune"),
        help="where runs keep logs, plans and caches (default: .finetune)",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="what finished runs have measured: corrects the plan, and is added to (default: history.json in --folder)",
    )
    parser.add_argument(
        "--model-cache",
        type=Path,
        metavar="FOLDER",
        help="keep downloaded models here for later runs, verified (default: in the run's folder); model.cache is for clusters",
    )
    add_config_map(parser)
    parser.add_argument(
        "--report", type=Path, help="write the JSON report here (default: report.json in the run's folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the job and return the process's exit code."""
    console = Console(highlight=False)
    try:
        job = read_job(options.filename)
        history_path = options.history or options.folder / "history.json"
        history = history_in(history_path)
        spec = with_found_models(with_absolute_locations(job.spec, Path.cwd()), options.folder)
        config_maps = folders_of(options.config_map, spec)
    except UnreadableManifest as error:
        print(f"finetune run: {error}", file=sys.stderr)
        return BAD_INPUT
    job = job.model_copy(update={"spec": spec})
    try:
        local_run = LocalRun(job, options.folder, console, history, options.model_cache, config_maps)
    except OSError as error:
        print(f"finetune run: --folder: {options.folder} cannot be used: {reason_of(error)}", file=sys.stderr)
        return BAD_INPUT
    try:
        local_run.run()
    except RunFailed as failure:
        print(f"finetune run: {failure}", file=sys.stderr)
        return failure.exit_code
    finally:
        report = local_run.write_report(options.report)
    if report is not None:
        console.print(f"Report: {escape(str(report))}", soft_wrap=True)
    if (finished := local_run.finished()) is not None:
        try:
            remember(history_path, finished)
        except (UnreadableManifest, OSError) as error:
            console.print(f"[yellow]This run is not remembered for later plans: {escape(str(error))}[/yellow]")
    return 0


class LocalRun:
    """One job on this machine, from inspection to publication."""

    def __init__(
        self,
        job: FineTuneJob,
        folder: Path,
        console: Console,
        history: History = EMPTY_HISTORY,
        model_cache: Path | None = None,
        config_maps: Mapping[str, Path] | None = None,
    ) -> None:
        self._job = job
        self._console = console
        self._history = history
        self._uid = hashlib.sha256(
            job.model_dump_json(include={"metadata": {"name"}, "spec": True}).encode()
        ).hexdigest()
        self._folder = folder.resolve() / f"{job.metadata.name}-{self._uid[:8]}"
        (self._folder / "work").mkdir(parents=True, exist_ok=True)
        functions = linked(config_maps, self._folder / "config-maps") if config_maps else None
        self._trainer = TrainerProcess(self._folder, model_cache.resolve() if model_cache else None, functions)
        self._record = RunRecord()
        self._plan: Plan | None = None

    def run(self) -> None:
        """Inspect, plan, train with retries, publish.

        Raises:
            RunFailed: a step failed for good.
        """
        plan_path = self._train()
        self._publish(plan_path)
        peaks = self._record.peak_bytes_by_rank()
        if self._plan is not None:
            self._console.print(memory_comparison_table(self._plan, peaks))

    def finished(self) -> FinishedRun | None:
        """Return what the run has measured, for later plans; None when there was no plan, or it was not predicted."""
        if self._plan is None or self._plan.prediction is None:
            return None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return finished_run(self._uid, now, self._plan.prediction, self._record.last_attempt())

    def write_report(self, path: Path | None) -> Path | None:
        """Write what is known as JSON and return its path; None when there was no plan."""
        if self._plan is None:
            return None
        path = (path or self._folder / "report.json").resolve()
        path.write_text(json.dumps(self._record.report(self._plan), indent=2) + "\n")
        return path

    def _inspect(self, *options: str) -> InspectionReport:
        spec = self._job.spec
        namespace, name = self._job.metadata.namespace, self._job.metadata.name
        key = inspection_key(namespace, spec)
        request = InspectionRequest(namespace=namespace, name=name, uid=self._uid, spec=spec, key=key)
        request_path, report_path = self._folder / "request.json", self._folder / "inspection.json"
        known = known_files(report_path)
        request_path.write_text(request.model_dump_json(by_alias=True))
        with self._console.status("Inspecting model and data …"), self._timed("inspect"):
            arguments = ("--job", str(request_path), "--output", str(report_path), *options)
            ending = self._trainer.run("inspect", "inspect", *arguments)
        if ending.exit_code != 0:
            raise _failure("inspection", ending)
        report = InspectionReport.model_validate_json(report_path.read_text())
        for said in changed(known, report.reward_files):
            self._console.print(f"[yellow]{escape(said)}[/yellow]")
        return report

    def _make_plan(self) -> tuple[InspectionReport, Plan]:
        inspection = self._inspect()
        known = architecture_of(inspection.model.config)
        if isinstance(known, PlanError) and known.needs_trace:
            self._console.print("No table knows this model: it is traced on fake tensors.")
            inspection = self._inspect("--trace")
        self._console.print(inspection_table(inspection))
        return inspection, self._planned(inspection)

    def _planned(self, inspection: InspectionReport, failure: RanOut | None = None) -> Plan:
        inventory = inventory_of_this_machine(self._folder)
        plan = next_plan(self._job.spec, inspection, inventory, failure=failure, history=self._history)
        if isinstance(plan, PlanError):
            raise RunFailed(f"{plan.reason}: {plan.message}", NO_PLAN)
        self._plan = plan
        self._console.print(plan_table(plan))
        return plan

    def _train(self) -> Path:
        """Run attempts until one succeeds, and return the path of its plan file."""
        inspection, plan = self._make_plan()
        failures: list[TerminationMessage] = []
        while True:
            number = len(failures) + 1
            path = self._write_attempt(number, inspection, plan)
            ending = self._run_attempt(number, plan, path)
            self._record.add_time(ending.message.time)
            if ending.exit_code == 0:
                return path
            failures.append(ending.message)
            verdict = next_after_failure(failures, self._job.spec.run.retries)
            if isinstance(verdict, GiveUp):
                raise RunFailed(f"{verdict.reason}: {verdict.message} (log: {ending.log})", ending.exit_code)
            self._console.print(
                f"[yellow]Attempt {number} ended: {ending.message.reason}: {escape(ending.message.message.rstrip('. '))}. "
                f"Attempt {number + 1} goes on from the newest verified checkpoint.[/yellow]"
            )
            if verdict.inspect_again:
                inspection, plan = self._make_plan()
            if verdict.replan:
                plan = self._planned(inspection, RanOut(plan, ending.message.memory_shortage))

    def _write_attempt(self, number: int, inspection: InspectionReport, plan: Plan) -> Path:
        metadata = self._job.metadata
        attempt = AttemptFile(
            namespace=metadata.namespace,
            name=metadata.name,
            uid=self._uid,
            attempt=number,
            reached_step=self._record.last_step(),
            spec=self._job.spec,
            inspection=inspection,
            plan=plan,
            checkpoint_uri=checkpoint_uri(self._job.spec, metadata.name, self._uid),
        )
        path = self._folder / f"plan-{number}.json"
        path.write_text(attempt.model_dump_json(by_alias=True, exclude_none=True))
        return path

    def _run_attempt(self, number: int, plan: Plan, path: Path) -> Ending:
        with attempt_progress(self._console, number, plan.total_steps) as show, self._timed("train"):

            def heard(event: RunEvent) -> None:
                self._record.add(event)
                show(event)

            return self._trainer.run(f"attempt-{number}", "launch", "--plan", str(path), on_event=heard)

    def _publish(self, plan_path: Path) -> None:
        with self._console.status("Publishing: verify, export, check, upload …"), self._timed("publish"):
            ending = self._trainer.run("publish", "publish", "--plan", str(plan_path), on_event=self._record.add)
        if ending.exit_code != 0:
            raise _failure("publication", ending)
        remember_result(self._folder, self._job.spec.output.uri)
        published = self._record.published
        for place in (self._job.spec.output.uri, *(published.destinations if published else ())):
            self._console.print(f"[green]Published[/green] {escape(place)}", soft_wrap=True)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._record.seconds[name] = self._record.seconds.get(name, 0.0) + time.monotonic() - start


def _failure(what: str, ending: Ending) -> RunFailed:
    return RunFailed(
        f"{what} failed: {ending.message.reason}: {ending.message.message} (log: {ending.log})", ending.exit_code
    )
