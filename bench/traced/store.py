"""Traces on disk, one JSON object a line: a trace takes seconds, the closed form microseconds, so what was traced once is read again.

A record is found by everything that its trace depends on: the content of config.json, the setting and the versions of what is traced. A
change of the oracle itself is not among it: after one, the records of what it touches are deleted and traced again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from finetune_trainer.oracle.setting import TraceSetting
from traced.cases import Case, setting_of

PACKAGES: Final = ("torch", "transformers", "peft", "trl")


@dataclass(frozen=True)
class TracedCase:
    """What the oracle found for one case."""

    phases: Mapping[str, int]
    """Peak of each traced phase in bytes."""

    @property
    def peak(self) -> int:
        """Bytes at the highest moment of the step."""
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """Where it lies; the first phase of several."""
        return max(self.phases, key=lambda phase: self.phases[phase])


def key_of(config: Mapping[str, Any], setting: TraceSetting) -> str:
    """Return what a trace is found by."""
    versions = {name: version(name).split("+")[0] for name in PACKAGES}
    content = json.dumps([config, asdict(setting), versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass
class TraceStore:
    """Records of one file, in the order in which they were traced."""

    path: Path
    _found: dict[str, TracedCase] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            record = json.loads(line)
            self._found[record["key"]] = TracedCase(record["phases"])

    def get(self, case: Case) -> TracedCase | None:
        """Return the trace of `case` if there is one."""
        return self._found.get(key_of(case.config, setting_of(case.workload, case.config)))

    def add(self, case: Case, traced: TracedCase) -> None:
        """Write a trace down at once, so that an interrupted run goes on where it was."""
        key = key_of(case.config, setting_of(case.workload, case.config))
        self._found[key] = traced
        with self.path.open("a") as file:
            file.write(json.dumps({"case": case.name, "key": key, "phases": traced.phases}) + "\n")
