"""A job's run as it is seen from outside while it lasts: every step's loss, every message, every pod, with the time at which it was seen.

The run events are read where the pods write them, in their work directories on this machine. Files are opened as soon as they appear and read
through that handle, so that nothing is lost when a pod is deleted.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from finetune_operator.api.constants import WORK_DIRECTORY, WORK_VOLUME
from finetune_operator.api.run_events import (
    RUN_EVENT,
    RUN_EVENTS_VARIABLE,
    CheckpointEvent,
    ResumeEvent,
    RunEvent,
    StepEvent,
)
from testbed.node import KUBELET_STATE, NodeCluster
from testbed.processes import TestbedError, until

_FILE = "events.jsonl"
EVENTS_ENVIRONMENT = [{"name": RUN_EVENTS_VARIABLE, "value": f"{WORK_DIRECTORY}/{_FILE}"}]
"""For `spec.pod.env`: makes the trainer write its run events."""
_PLACES = f"pods/*/volumes/kubernetes.io~empty-dir/{WORK_VOLUME}/{_FILE}"
_PAUSE = 0.05
PATIENCE = 420.0
"""Seconds; a start takes 15 s on an idle machine."""


@dataclass(frozen=True)
class Seen:
    """Something and when it was seen, in seconds since the epoch."""

    time: float
    what: Any


@dataclass
class RunWatch:
    """Watches one job from `with` on; only one job with run events may run meanwhile."""

    cluster: NodeCluster
    namespace: str
    name: str
    events: list[Seen] = field(default_factory=list)
    """RunEvent, in the order of each attempt."""
    states: list[Seen] = field(default_factory=list)
    """The job's status, whenever it changed."""

    def __enter__(self) -> RunWatch:
        self._ended = threading.Event()
        self._known = set(KUBELET_STATE.glob(_PLACES))
        self._threads = [threading.Thread(target=self._read_events, daemon=True)]
        watching = [
            "get",
            "ftj",
            self.name,
            "--namespace",
            self.namespace,
            "--watch",
            "--output=jsonpath={.status}{'\\n'}",
        ]
        self._kubectl = self.cluster.start_kubectl(*watching)
        self._threads.append(threading.Thread(target=self._read_states, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._kubectl.terminate()
        self._kubectl.wait()
        for thread in self._threads:
            thread.join(10)

    def steps(self, attempt: int | None = None) -> list[Seen]:
        """The steps that were made, of one attempt or of all, in the order of time."""
        return [s for s in list(self.events) if isinstance(s.what, StepEvent) and attempt in (None, s.what.attempt)]

    def steps_lost(self, attempt: int) -> int:
        """Steps that had been made before this attempt, or before it was resumed last, and were made again."""
        events = [seen.what for seen in list(self.events)]
        resumed = [i for i, event in enumerate(events) if isinstance(event, ResumeEvent) and event.attempt == attempt]
        if resumed:
            return _last_step(events[: resumed[-1]]) - int(events[resumed[-1]].step)
        return _last_step([event for event in events if event.attempt < attempt])

    def losses(self) -> dict[int, set[float]]:
        """Every loss that any attempt has computed of each step."""
        found: dict[int, set[float]] = {}
        for seen in self.steps():
            found.setdefault(seen.what.step, set()).add(seen.what.loss)
        return found

    def messages(self) -> list[str]:
        """What status.message has said, in order."""
        return [str(seen.what.get("message", "")) for seen in list(self.states)]

    def wait_for_step(self, attempt: int, more: int = 2) -> None:
        """Wait until an attempt has made so many steps of its own."""
        self._wait(f"attempt {attempt} to make {more} steps", lambda: len(self.steps(attempt)) >= more)

    def wait_for_checkpoint(self, attempt: int) -> None:
        """Wait until an attempt has committed a checkpoint, and return at once: the next one is an interval away."""
        self._wait(
            f"a checkpoint of attempt {attempt}", lambda: any(_is_checkpoint(s.what, attempt) for s in self.events)
        )

    def _wait(self, what: str, reached: Callable[[], bool]) -> None:
        for _ in until(PATIENCE, pause=_PAUSE):
            if reached():
                return
            if self.states and self.states[-1].what.get("state") in ("Complete", "Failed"):
                raise TestbedError(f"{self.name} has ended before {what}: {self.messages()[-1]}")
        raise TestbedError(f"{self.name}: no {what} within {PATIENCE:.0f} s: {self.messages()[-3:]}")

    def _read_events(self) -> None:
        files: list[IO[str]] = []
        while True:
            last = self._ended.is_set()  # one more time after the end
            for path in set(KUBELET_STATE.glob(_PLACES)) - self._known:
                self._known.add(path)
                files.append(path.open())
            for file in files:
                self.events.extend(Seen(time.time(), event) for event in _whole_lines(file))
            if last:
                break
            time.sleep(_PAUSE)
        for file in files:
            file.close()

    def _read_states(self) -> None:
        with self._kubectl.stdout or io.StringIO() as lines:
            for line in lines:
                if line.strip():
                    self.states.append(Seen(time.time(), json.loads(line)))


def _whole_lines(file: IO[str]) -> Iterator[RunEvent]:
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield RUN_EVENT.validate_json(line)


def _last_step(events: Sequence[Any]) -> int:
    return max((event.step for event in events if isinstance(event, StepEvent)), default=0)


def _is_checkpoint(event: Any, attempt: int) -> bool:
    return isinstance(event, CheckpointEvent) and event.verified and event.attempt == attempt
