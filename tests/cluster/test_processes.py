"""How the test cluster waits for its programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed import processes as programs


def test_a_program_that_ends_is_started_again_until_it_is_ready(tmp_path: Path) -> None:
    processes, marks = programs.Processes(tmp_path), tmp_path / "marks"

    def start() -> None:
        processes.start("early", "bash", "-c", f"echo >> {marks}; test $(wc -l < {marks}) -lt 3 || sleep 60")

    start()
    processes.wait_until(
        "early", "it was started three times", lambda: marks.exists() and len(marks.read_text()) == 3, restart=start
    )
    assert processes.pid("early") is not None
    processes.stop_all()


def test_a_program_that_nothing_starts_again_fails_with_its_last_words(tmp_path: Path) -> None:
    processes = programs.Processes(tmp_path)
    processes.start("broken", "bash", "-c", "echo no socket; exit 1")
    with pytest.raises(programs.TestbedError, match=r"broken ended .it answers.*\n.*no socket"):
        processes.wait_until("broken", "it answers", lambda: False)
