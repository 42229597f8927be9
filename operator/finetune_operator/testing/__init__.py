"""Test doubles that ship with the operator: an API server in memory, virtual time, builders of API objects."""

from finetune_operator.testing.builders import config_map, finetune_job, indexed_job, node, owned_by, pod
from finetune_operator.testing.calls import Call, timed_out
from finetune_operator.testing.clock import FakeClock, settle
from finetune_operator.testing.fake_api import FakeApi

__all__ = [
    "Call",
    "FakeApi",
    "FakeClock",
    "config_map",
    "finetune_job",
    "indexed_job",
    "node",
    "owned_by",
    "pod",
    "settle",
    "timed_out",
]
