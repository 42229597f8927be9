"""Log lines: one JSON object each, and nothing of an exception's text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from finetune_operator.controller.logs import configure_logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("INFO", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_is_an_object_with_its_extras(lines: io.StringIO) -> None:
    logging.getLogger("some").info("planned %d pods", 2, extra={"job": "team/tune"})
    line = json.loads(lines.getvalue())
    assert (line["level"], line["logger"], line["message"], line["job"]) == (
        "INFO",
        "some",
        "planned 2 pods",
        "team/tune",
    )


def test_an_exception_is_its_type_and_place_without_its_text(lines: io.StringIO) -> None:
    try:
        raise ValueError("row content: my secret")
    except ValueError:
        logging.getLogger("some").exception("it failed")
    line = json.loads(lines.getvalue())
    assert line["error"].startswith("ValueError at ")
    assert "test_logs.py" in line["error"]
    assert "secret" not in lines.getvalue()


def test_kopf_s_line_for_every_event_is_not_shown(lines: io.StringIO) -> None:
    logging.getLogger("kopf.objects").info("Handler 'on_job' succeeded.")
    assert lines.getvalue() == ""
