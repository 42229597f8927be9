"""After a GPU ran out of memory the next attempt has a smaller plan, made with what was measured; after a pod did, a larger pod. Both have an end."""

from __future__ import annotations

from finetune_operator.api.plan import GIB, Phase, Plan, PlanError
from finetune_operator.api.progress import MemoryShortage
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.observed import PodReport
from finetune_operator.jobs.testing import FixedPlanner, World, ended_pod, make_job, make_plan, reason, trained
from finetune_operator.planner.host_replan import MOST_HOST_REPLANS
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.replan import MOST_REPLANS, RanOut

SHORTAGE = MemoryShortage(
    held_bytes=79 * GIB,
    allocated_bytes=74 * GIB,
    reserved_bytes=78 * GIB,
    requested_bytes=2 * GIB,
    phase=Phase.BACKWARD,
)


class Remembering:
    """Answers like `FixedPlanner`, and keeps what it was told of failures."""

    def __init__(self, *answers: Plan | PlanError) -> None:
        self.told: list[RanOut] = []
        self._answers = list(answers)

    def __call__(self, failure: RanOut) -> Plan | PlanError:
        self.told.append(failure)
        if self._answers:
            return self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        half = {"micro_batch_size": failure.plan.micro_batch_size // 2, "replans": failure.number}
        return failure.plan.model_copy(update=half)


def training(after_failure: Remembering) -> World:
    """A world whose first attempt trains on one GPU, with micro-batches of 4."""
    return trained(World(make_job(), FixedPlanner(make_plan(accelerator="gpu"), after_failure)))


def test_the_next_attempt_runs_by_a_plan_that_was_made_with_what_was_measured() -> None:
    planner = Remembering()
    world = training(planner)
    world.fail("tune-1", ended_pod(45, shortage=SHORTAGE))
    world.settle()
    assert {(told.plan.micro_batch_size, told.shortage) for told in planner.told} == {(4, SHORTAGE)}
    assert world.files[2].plan.micro_batch_size == 2
    first, second = world.status.attempts
    assert (first.reason, first.charged, first.memory_shortage) == (Reason.GPU_OUT_OF_MEMORY, False, SHORTAGE)
    assert second.result == "Running"
    assert reason(world, ConditionType.PLANNED)[1] is Reason.REPLANNED
    assert world.status.plan is not None
    assert world.status.plan.micro_batch_size == 2
    assert any(event.reason is Reason.REPLANNED for desired in world.history for event in desired.events)


def test_a_replanned_attempt_that_fails_otherwise_is_tried_again_with_its_own_plan() -> None:
    world = training(Remembering())
    world.fail("tune-1", ended_pod(45, shortage=SHORTAGE))
    world.settle()
    world.train_to(3, attempt=2)
    world.advance(300)
    world.fail("tune-2", ended_pod(1, attempt=2))
    world.settle()
    assert world.files[3].plan == world.files[2].plan


def test_it_is_planned_anew_as_often_as_the_policy_says_and_no_failure_is_charged() -> None:
    world = training(Remembering())
    for number in range(1, MOST_REPLANS + 1):
        world.fail(f"tune-{number}", ended_pod(45, attempt=number))
        world.settle()
    assert [world.files[number].plan.replans for number in (3, 4)] == [2, 3]
    assert world.files[4].charged_before == 0


def test_the_job_ends_where_no_smaller_plan_is_left() -> None:
    refusal = PlanError(reason=Reason.DOES_NOT_FIT, message="no plan is smaller; allow more GPUs")
    world = training(Remembering(refusal))
    world.fail("tune-1", ended_pod(45, shortage=SHORTAGE))
    world.settle()
    assert world.status.state is JobState.FAILED
    assert reason(world, ConditionType.FAILED)[1] is Reason.GPU_OUT_OF_MEMORY
    assert reason(world, ConditionType.PLANNED)[1] is Reason.DOES_NOT_FIT
    assert "no plan is smaller; allow more GPUs" in (world.status.message or "")
    assert "tune-2" not in world.children


def test_where_only_nodes_are_missing_it_waits_for_them_and_goes_on() -> None:
    waiting = PlanError(reason=Reason.NO_CAPACITY, message="no ready node has GPUs", waits=True)
    smaller = make_plan(accelerator="gpu", micro_batch_size=1, replans=1)
    planner = Remembering(waiting)
    world = training(planner)
    world.fail("tune-1", ended_pod(45, shortage=SHORTAGE))
    desired = world.settle()
    assert (world.status.state, desired.requeue_after) == (JobState.PENDING, 60.0)
    planner._answers = [smaller]
    world.advance(60)
    world.settle()
    assert world.files[2].plan == smaller


def killed_for_memory(attempt: int) -> PodReport:
    return ended_pod(137, attempt=attempt, container_reason="OOMKilled", silent=True, step=3)


def training_on_cpus(gibibytes: int) -> World:
    """A world whose first attempt trains on a CPU node with so much memory; its pod has asked for 8 GiB."""
    world = World(make_job(run={"retries": 0}))
    world.inventory = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=8000, memory_bytes=gibibytes * GIB),))
    world.settle()
    world.inspect()
    world.settle()
    world.train_to(3)
    world.settle()
    return world


def test_after_a_pod_was_killed_for_memory_the_next_one_has_more_and_it_is_not_charged() -> None:
    world = training_on_cpus(64)
    world.fail("tune-1", killed_for_memory(1))
    world.settle()
    first, second = world.status.attempts
    assert (first.reason, first.charged, second.result) == (Reason.HOST_OUT_OF_MEMORY, False, "Running")
    assert world.files[2].plan.resources.memory_bytes == 12 * GIB
    assert (
        world.files[2].plan.model_copy(update={"resources": world.files[1].plan.resources}).memory_key
        == world.files[1].plan.memory_key
    )
    assert reason(world, ConditionType.PLANNED)[1] is Reason.REPLANNED
    assert world.status.plan is not None
    assert "every pod asks for 12.0 GiB now" in world.status.plan.reasons[0]
    assert any(event.reason is Reason.REPLANNED for desired in world.history for event in desired.events)


def test_a_pod_is_given_more_as_often_as_the_policy_says_and_then_the_job_ends_with_advice() -> None:
    world = training_on_cpus(512)
    for number in range(1, MOST_HOST_REPLANS + 2):
        world.fail(f"tune-{number}", killed_for_memory(number))
        world.settle()
    assert world.status.state is JobState.FAILED
    assert reason(world, ConditionType.FAILED)[1] is Reason.HOST_OUT_OF_MEMORY
    assert "add nodes with more memory" in (world.status.message or "")
    assert f"tune-{MOST_HOST_REPLANS + 2}" not in world.children


def test_a_pod_killed_for_memory_waits_where_nodes_are_missing_now() -> None:
    world = training_on_cpus(64)
    world.inventory = Inventory()
    world.fail("tune-1", killed_for_memory(1))
    world.settle()
    assert world.status.state is JobState.PENDING
    world.inventory = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=8000, memory_bytes=32 * GIB),))
    world.advance(60)
    world.settle()
    assert world.files[2].plan.resources.memory_bytes == 12 * GIB
