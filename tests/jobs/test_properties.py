"""What holds whatever happens: random stories of a cluster, with the operator asked after every turn."""

import json
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.causes import failing
from finetune_operator.jobs.conditions import REASONS_OF, is_finished
from finetune_operator.jobs.decisions import Desired
from finetune_operator.jobs.desired import desired_state
from finetune_operator.jobs.testing import SETTINGS, FixedPlanner, World, ended_pod, make_job, make_plan, make_pod

S = JobState
TRAINS = {S.PENDING, S.INSPECTING, S.STARTING, S.SUSPENDED, S.FAILED}
ALLOWED = {
    None: {S.PENDING, S.INSPECTING, S.PLANNED, S.SUSPENDED},
    S.PENDING: {*TRAINS, S.PLANNED},
    S.INSPECTING: {*TRAINS, S.PLANNED},
    S.PLANNED: {S.PLANNED, S.STARTING, S.SUSPENDED, S.FAILED},
    S.STARTING: {*TRAINS, S.RUNNING, S.PUBLISHING},
    S.RUNNING: {*TRAINS, S.RUNNING, S.PUBLISHING},
    S.PUBLISHING: {S.PUBLISHING, S.SUSPENDED, S.COMPLETE, S.FAILED},
    S.SUSPENDED: set(S),
    S.COMPLETE: {S.COMPLETE},
    S.FAILED: {S.FAILED},
}
"""Which state may follow which; what is not here would surprise people and scripts."""

ENDS = [
    {"code": 1},
    {"code": 42},
    {"code": 43},
    {"code": 45},
    {"code": 46},
    {"code": 48},
    {"code": 49},
    {"code": 137, "silent": True},
    {"code": 137, "silent": True, "container_reason": "OOMKilled"},
    {"code": 143, "silent": True, "disrupted": "evicted"},
]


def alive(world: World, component: str) -> str | None:
    """The name of the newest child of that component that has not ended."""
    found = [child for child in world.children.values() if child.component == component]
    newest = max(found, key=lambda child: child.attempt or 0, default=None)
    if newest is None or newest.has_condition("Complete") or failing(newest):
        return None
    return newest.name


def end_inspection(world: World, turn: int) -> None:
    if alive(world, "inspect") is None:
        return
    if turn % 3:
        world.inspect(rows=100 + turn)
    else:
        world.fail("tune-inspect", ended_pod([41, 43, 44, 1][turn // 3 % 4], component="inspect", attempt=None))


def train(world: World, turn: int) -> None:
    name = alive(world, "train")
    if name and not world.children[name].suspended and world.children[name].attempt in world.files:
        world.train_to(turn, attempt=int(name.rpartition("-")[2]))


def wait_for_pods(world: World, turn: int) -> None:
    name = alive(world, "train")
    if name:
        waits = [{"scheduled": False, "unschedulable": "no node"}, {"waiting_reason": "ErrImagePull"}, {}]
        world.pods = [make_pod(attempt=world.children[name].attempt, phase="Pending", running=False, **waits[turn % 3])]


def end_attempt(world: World, turn: int) -> None:
    name = alive(world, "train")
    if name is None:
        return
    attempt = world.children[name].attempt
    if turn % 4 == 0:
        world.finish(name, ended_pod(0, attempt=attempt, peak=turn * 2**30))
    else:
        world.fail(name, ended_pod(attempt=attempt, finished=world.now, **ENDS[turn % len(ENDS)]))


def end_publication(world: World, turn: int) -> None:
    if alive(world, "publish") is None:
        return
    if turn % 2:
        world.finish("tune-publish")
    else:
        world.fail("tune-publish", ended_pod([43, 40][turn // 2 % 2], component="publish"), kind="Failed")


def suspend(world: World, turn: int) -> None:
    world.change_spec(run={"suspend": bool(turn % 2), "retries": 2, "deadline": "2d"})


def change_the_work_before_its_start(world: World, turn: int) -> None:
    if world.status.start_time is None:
        world.change_spec(run={"suspend": turn % 3 > 0, "retries": 2}, training={"maxSteps": 1 + turn % 2})


def lose_a_config_map(world: World, turn: int) -> None:
    if world.files:
        del world.files[max(world.files)]


def change_plan(world: World, turn: int) -> None:
    error = PlanError(reason="NoCapacity", message="no nodes", waits=True)
    world.planner = FixedPlanner(error if turn % 2 else make_plan(pods=1 + turn % 3))


def change_foreign(world: World, turn: int) -> None:
    world.foreign = ("Job/tune-9",) if turn % 2 else ()


def lose_a_child(world: World, turn: int) -> None:
    name = alive(world, "train")
    if name:
        del world.children[name]
        world.pods = []


def let_time_pass(world: World, turn: int) -> None:
    world.advance([1, 11, 61, 400, 4000][turn % 5])


TURNS: list[Callable[[World, int], None]] = [
    end_inspection,
    train,
    wait_for_pods,
    end_attempt,
    end_publication,
    suspend,
    change_the_work_before_its_start,
    lose_a_config_map,
    change_plan,
    change_foreign,
    lose_a_child,
    let_time_pass,
]
STORIES = st.lists(st.tuples(st.sampled_from(TURNS), st.integers(0, 60)), max_size=30)


class Witness(World):
    """A world that checks every decision."""

    def __init__(self) -> None:
        super().__init__(make_job(run={"retries": 2, "deadline": "2d"}), FixedPlanner(make_plan(pods=2)))
        self.highest = 0

    def reconcile(self) -> Desired:
        before = self.status
        finished = is_finished(self.job.status)
        again = desired_state(self.job, self.observe(), SETTINGS, self.planner)
        desired = super().reconcile()
        assert json.dumps([*desired.objects]) == json.dumps([*again.objects])
        assert replace(desired, objects=()) == replace(again, objects=())
        status = desired.status
        assert status.state in ALLOWED[before.state], f"{before.state} -> {status.state}"
        for condition in status.conditions:
            assert condition.reason in REASONS_OF[condition.type], (condition.type, condition.reason)
            old = before.condition(condition.type)
            moved = old is None or old.last_transition_time != condition.last_transition_time
            assert old is None or not moved or old.status != condition.status
        numbers = [attempt.number for attempt in status.attempts]
        assert numbers == sorted(set(numbers))
        assert max(numbers, default=0) >= self.highest
        self.highest = max(numbers, default=0)
        if finished:
            assert not [body for body in desired.objects if not body["spec"]["suspend"]]
        elif not is_finished(self.job.status) and not self.job.spec.run.suspend:
            assert desired.requeue_after is not None, "it would wait for an event that may not come"
        return desired


@settings(max_examples=200, deadline=None)
@given(STORIES)
def test_whatever_happens_the_operator_settles_and_its_status_keeps_its_promises(
    story: list[tuple[Callable[[World, int], None], int]],
) -> None:
    world = Witness()
    world.settle()
    for turn, number in story:
        turn(world, number)
        world.settle()
        active = [
            child
            for child in world.children.values()
            if child.component == "train" and not child.suspended and not child.conditions
        ]
        assert len(active) <= 1, "two attempts would write the same checkpoints"
        if world.status.condition(ConditionType.FAILED).status == "True":
            assert active == []


@given(STORIES)
@settings(max_examples=50, deadline=None)
def test_a_lost_status_changes_neither_the_attempt_nor_what_runs(
    story: list[tuple[Callable[[World, int], None], int]],
) -> None:
    world = World(make_job(run={"retries": 2}), FixedPlanner(make_plan(pods=2)))
    for turn, number in story:
        turn(world, number)
        world.settle()
    if is_finished(world.job.status) or world.foreign:
        return
    names, files = set(world.children), dict(world.files)
    if any(record.reason is Reason.REPLANNED for record in world.status.attempts):
        return
    started = [name for name in names if name[-1].isdigit()]
    if not started or any(child.conditions for child in world.children.values()):
        return
    world.lose_status()
    world.settle()
    assert (set(world.children), world.files) == (names, files)
