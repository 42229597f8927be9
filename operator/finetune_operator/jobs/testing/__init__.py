"""For tests of policies: builders of their input, and a world in which a job goes its way."""

from finetune_operator.jobs.testing.builders import (
    SETTINGS,
    START,
    FixedPlanner,
    attempt_children,
    ended_pod,
    first_container,
    later,
    make_file,
    make_job,
    make_plan,
    make_pod,
    make_prediction,
    make_report,
)
from finetune_operator.jobs.testing.world import World, job_names, reason, running, trained

__all__ = [
    "SETTINGS",
    "START",
    "FixedPlanner",
    "World",
    "attempt_children",
    "ended_pod",
    "first_container",
    "job_names",
    "later",
    "make_file",
    "make_job",
    "make_plan",
    "make_pod",
    "make_prediction",
    "make_report",
    "reason",
    "running",
    "trained",
]
