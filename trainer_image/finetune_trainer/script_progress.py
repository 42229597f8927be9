"""What a user's own script says of its progress: heard in its pod, passed on to the operator, and missed when it stays away.

The script is told an address of its own pod (KEP-2779's KUBEFLOW_TRAINER_SERVER_URL). So a hang is judged by somebody who hears the script whether
or not the operator and the network are there. A script that never reports is never judged: silence means nothing then.
"""

from __future__ import annotations

import threading
import urllib.error
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.progress import REPORT_LIMIT_BYTES, ProgressReport, TrainerStatus
from finetune_trainer.report import Send
from finetune_trainer.watchdog import STEPS_REMEMBERED, hang_seconds

_BODY_SECONDS: Final = 10.0


class ProgressWatch:
    """Knows after how long without progress a script hangs. Times are seconds of a clock that never goes back, given by the caller.

    A step is what lies between two reports that differ in step or percentage: a script that reports every hundredth of its steps is given the
    time of ten hundreds. Files that it writes are a sign of life without being a step: a checkpoint may take longer than ten of them.
    """

    def __init__(self, limit: Callable[[Sequence[float]], float] = hang_seconds) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._shown: tuple[int | None, int | None] | None = None
        self._reported = self._alive = 0.0
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self.step: int | None = None
        """The newest that was reported."""

    def report(self, status: TrainerStatus, now: float) -> None:
        """Hear a report; one that says the same again is no progress."""
        shown = (status.step, status.progress_percentage)
        with self._lock:
            if shown in (self._shown, (None, None)):
                return
            if self._shown is not None:
                self._steps.append(now - self._reported)
            self._shown, self._reported, self._alive = shown, now, now
            self.step = status.step if status.step is not None else self.step
            if status.progress_percentage == 100 or (status.step is not None and status.step == status.total_steps):
                # What follows is the result's export, of which nothing is reported.
                self._shown = None
                self._steps.clear()

    def wrote(self, now: float) -> None:
        """Hear that the script has written a file."""
        with self._lock:
            self._alive = now

    def silent_seconds(self, now: float) -> float | None:
        """Return for how long a script that hangs has been silent; None while none is known to hang."""
        with self._lock:
            silent = now - self._alive
            if self._shown is None or silent <= self._limit(tuple(self._steps)):
                return None
            return silent


class ProgressRelay:
    """The address in the pod that a script reports to; a report reaches `heard` first and then, where there is one, the operator."""

    def __init__(self, heard: Callable[[TrainerStatus], object], send: Send | None) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(heard, send))
        self._server.daemon_threads = False  # closing waits for what is being passed on
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="progress-relay")
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the script reports to."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(heard: Callable[[TrainerStatus], object], send: Send | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _BODY_SECONDS

        def do_POST(self) -> None:
            self.send_response(self._take())
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _take(self) -> HTTPStatus:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                return HTTPStatus.LENGTH_REQUIRED
            if int(length) > REPORT_LIMIT_BYTES:
                return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            body = self.rfile.read(int(length))
            try:
                heard(ProgressReport.model_validate_json(body).trainer_status)
            except ValidationError:
                return HTTPStatus.UNPROCESSABLE_ENTITY
            try:
                if send is not None:
                    send(body)
            except urllib.error.HTTPError as error:
                error.close()
                return HTTPStatus(error.code)
            except OSError:
                return HTTPStatus.SERVICE_UNAVAILABLE
            return HTTPStatus.OK

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a report is no news, and what it says may be a row's content."""

    return Handler
