"""Plans keep within quotas and policies, and say in numbers what was binding."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.inventory import CpuNodes, Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.limits import NO_LIMITS, Bound, Limits, needs_of
from finetune_operator.planner.plan import make_plan

MODEL = "meta-llama/Meta-Llama-3-8B"
H100, A100 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB"
GPUS = catalogue_inventory((H100, A100))
CPUS = Inventory(cpu_nodes=(CpuNodes(nodes=2, cpu_millicores=16_000, memory_bytes=64 * GIB),))


def answer(limits: Limits, *, model: str = MODEL, method: str = "lora", **resources: Any) -> Plan | PlanError:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"hf://{model}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "tuning": {"method": method},
            "resources": resources,
        }
    )
    inventory = CPUS if resources.get("accelerator") == "cpu" else GPUS
    return make_plan(spec, None, inventory, config=KNOWN_MODELS[model], limits=limits)


def good(found: Plan | PlanError) -> Plan:
    assert isinstance(found, Plan), found
    return found


def bad(found: Plan | PlanError) -> PlanError:
    assert isinstance(found, PlanError), found
    return found


def quota(resource: str, hard: int, used: int = 0) -> Limits:
    return Limits(bounds=(Bound(source="ResourceQuota gpus", resource=resource, hard=hard, used=used),))


def test_without_limits_nothing_changes() -> None:
    assert answer(Limits()) == answer(NO_LIMITS)


def test_a_plan_keeps_within_the_quota_and_says_that_it_was_binding() -> None:
    free = good(answer(NO_LIMITS, objectiveOfPlan="fastest"))
    bound = good(answer(quota("nvidia.com/gpu", 2), objectiveOfPlan="fastest"))
    assert free.gpus == 8
    assert bound.gpus == 2
    said = "binding: ResourceQuota gpus allows 2 GPUs and it takes"
    assert any(reason.startswith(said) for reason in bound.reasons)


def test_an_exact_wish_above_the_quota_waits_and_is_told_the_numbers_and_what_would_fit() -> None:
    error = bad(answer(quota("nvidia.com/gpu", 4), gpus=8))
    assert (error.reason, error.waits) == (Reason.QUOTA_EXCEEDED, True)
    assert (
        "ResourceQuota gpus allows 4 GPUs and it takes 8 GPUs; ask for more, or set resources.gpus: 4 " in error.message
    )


def test_the_count_that_is_proposed_does_fit() -> None:
    limits = quota("nvidia.com/gpu", 4)
    error = bad(answer(limits, gpus=8))
    count = int(error.message.rpartition("resources.gpus: ")[2].partition(" ")[0])
    assert good(answer(limits, gpus=count)).gpus == count <= 4


def test_a_namespace_may_be_kept_from_gpu_types() -> None:
    policy = Limits(gpu_products=(A100,), policy="namespace team")
    plan = good(answer(policy, objectiveOfPlan="fastest"))
    assert plan.gpu_product == A100
    assert any("namespace team allows only" in reason for reason in plan.reasons)
    error = bad(answer(policy, gpuProduct=[H100]))
    assert error.reason == Reason.QUOTA_EXCEEDED
    assert f"namespace team allows only {A100}" in error.message


def test_a_namespace_may_bound_the_gpus_of_one_job() -> None:
    policy = Limits(max_gpus=2, policy="namespace team")
    assert good(answer(policy, objectiveOfPlan="fastest")).gpus == 2
    assert "namespace team allows 2 GPUs per job and it takes 8" in bad(answer(policy, gpus=8)).message


def test_a_policy_that_cannot_be_read_stops_planning() -> None:
    error = bad(answer(Limits(problem="annotation x is 'y'; write a number")))
    assert (error.reason, error.message, error.waits) == (
        Reason.QUOTA_EXCEEDED,
        "annotation x is 'y'; write a number",
        True,
    )


def test_what_others_use_of_a_quota_does_not_change_the_plan_but_is_told() -> None:
    free, busy = (good(answer(quota("nvidia.com/gpu", 8, used), gpus=4)) for used in (0, 6))
    assert busy.model_copy(update={"reasons": free.reasons}) == free
    said = "ResourceQuota gpus has 2 GPUs of 8 GPUs left now, and it takes 4 GPUs: pods wait until others end"
    assert said in busy.reasons


def test_little_cpu_makes_pods_ask_for_less_and_too_little_is_an_obstacle() -> None:
    small = {"model": "HuggingFaceTB/SmolLM2-135M", "accelerator": "cpu", "processes": 2, "pods": 2}
    free = good(answer(NO_LIMITS, **small))
    plan = good(answer(quota("cpu", 1000), **small))
    assert free.resources.cpu_millicores > plan.resources.cpu_millicores == 500
    assert "ResourceQuota gpus allows 0.1 CPU and it takes 0.2 CPU" in bad(answer(quota("cpu", 100), **small)).message


def test_memory_and_pods_are_bounded_too() -> None:
    wish = {"gpus": 2, "gpuProduct": [H100]}
    error = bad(answer(quota("memory", 8 * GIB), **wish))
    assert "ResourceQuota gpus allows 8 GiB memory and it takes" in error.message
    assert "allows 1 pod and it takes 2 pods" in bad(answer(quota("pods", 1), **wish, pods=2)).message


@settings(max_examples=40)
@given(
    st.integers(0, 16),
    st.sampled_from((0, 1, 4, 64, 1024)),
    st.sampled_from((None, 1, 4)),
    st.sampled_from(((), (A100,))),
    st.sampled_from((None, 1, 8)),
)
def test_no_plan_breaks_a_limit(
    gpus: int, memory: int, max_gpus: int | None, products: tuple[str, ...], wish: int | None
) -> None:
    limits = Limits(
        bounds=(
            Bound(source="q", resource="nvidia.com/gpu", hard=gpus),
            Bound(source="q", resource="memory", hard=memory * GIB),
        ),
        max_gpus=max_gpus,
        gpu_products=products,
        policy="p",
    )
    plan = answer(limits, **({"gpus": wish} if wish else {}))
    if isinstance(plan, PlanError):
        assert plan.reason == Reason.QUOTA_EXCEEDED
        return
    needs = needs_of(plan.resources, plan.pods, plan.gpu_resource)
    assert needs["nvidia.com/gpu"] == plan.gpus <= min(gpus, max_gpus or gpus)
    assert needs["memory"] <= memory * GIB
    assert not products or plan.gpu_product in products
