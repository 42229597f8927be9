"""Log lines as JSON objects, one per line, without anything that a job's data could get into.

An exception is logged by its type and the lines of ours it passed, never by its text: that of a pydantic or a storage
error quotes values.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_PLACES: Final = 4
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def describe(error: BaseException) -> str:
    """Return an error's type and the places that raised it, innermost first, without its text."""
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename.replace("\\", "/")
        places.append(f"{'/'.join(file.split('/')[-2:])}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-_PLACES:]))}"


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: str(value) for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe(record.exc_info[1])
        return json.dumps(line)


def configure_logs(level: str, stream: TextIO) -> None:
    """Send all log lines to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # kopf logs a line for every event at INFO, and objects at DEBUG.
    logging.getLogger("kopf").setLevel(logging.WARNING)
