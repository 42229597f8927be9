"""Events: written once, counted in series, never a reason to fail."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.controller import events as module
from finetune_operator.controller.events import EventRecorder
from finetune_operator.controller.kube import EVENTS, Forbidden
from finetune_operator.jobs.desired import JobEvent
from finetune_operator.testing import FakeApi, FakeClock

PLANNED = JobEvent("Normal", Reason.PLANNED, "2 processes by fsdp")


async def test_an_event_names_its_job_by_uid() -> None:
    api = FakeApi()
    await EventRecorder(api, FakeClock(), "operator-0").post("team", "tune", "uid-1", PLANNED)
    (name,) = api.names(EVENTS)
    body = api.find(EVENTS, "team", name)
    assert body is not None
    assert (body["reason"], body["note"], body["type"]) == ("Planned", "2 processes by fsdp", "Normal")
    assert body["regarding"]["uid"] == "uid-1"
    assert body["reportingInstance"] == "operator-0"


async def test_equal_events_are_one_object_with_a_count_and_few_writes() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    recorder = EventRecorder(api, clock, "operator-0")
    for _ in range(20):
        await recorder.post("team", "tune", "uid-1", PLANNED)
        await clock.advance(1)
    (name,) = api.names(EVENTS)
    body = api.find(EVENTS, "team", name)
    assert body is not None
    assert body["series"]["count"] == 16
    assert len(api.writes()) == 5


async def test_after_a_long_silence_an_equal_event_is_a_new_one() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    recorder = EventRecorder(api, clock, "operator-0")
    await recorder.post("team", "tune", "uid-1", PLANNED)
    await clock.advance(module.SERIES_SECONDS + 1)
    await recorder.post("team", "tune", "uid-1", PLANNED)
    assert len(api.names(EVENTS)) == 2


async def test_a_long_message_is_cut_to_what_the_api_allows() -> None:
    api = FakeApi()
    event = JobEvent("Warning", Reason.INVALID_DATA, "é" * 2000)
    await EventRecorder(api, FakeClock(), "operator-0").post("team", "tune", "uid-1", event)
    body = api.find(EVENTS, "team", api.names(EVENTS)[0])
    assert body is not None
    assert len(body["note"].encode()) <= module.NOTE_LIMIT_BYTES


async def test_an_event_that_the_server_refuses_fails_nothing() -> None:
    api = FakeApi()
    api.fail("apply", Forbidden(403, "Forbidden", "no"))
    await EventRecorder(api, FakeClock(), "operator-0").post("team", "tune", "uid-1", PLANNED)
    assert api.names(EVENTS) == []


async def test_memory_of_events_is_bounded() -> None:
    api = FakeApi()
    recorder = EventRecorder(api, FakeClock(), "operator-0")
    for number in range(module.REMEMBERED + 10):
        recorder._next("team", "tune", f"uid-{number}", PLANNED)
    assert len(recorder._series) == module.REMEMBERED
