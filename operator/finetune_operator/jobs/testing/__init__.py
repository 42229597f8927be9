"""For tests of policies: builders of their input, and a world in which a job goes its way."""

from finetune_operator.jobs.testing.builders import (
    SETTINGS,
    START,
    FixedPlanner,
    ended_pod,
    later,
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
    "ended_pod",
    "job_names",
    "later",
    "make_job",
    "make_plan",
    "make_pod",
    "make_prediction",
    "make_report",
    "reason",
    "running",
    "trained",
]
