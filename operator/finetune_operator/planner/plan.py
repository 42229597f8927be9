"""`make_plan`: from what the user wants, what was inspected and what the cluster has, to one plan or the reason why there is none.

Pure and deterministic: equal inputs give equal plans, in the operator and in `finetune plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from pydantic import JsonValue

from finetune_operator.api.architecture_trace import ArchitectureTrace
from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import architecture_of
from finetune_operator.memory.own_workload import HEADS
from finetune_operator.memory.states import trainable_parameters
from finetune_operator.planner.candidate import Candidate
from finetune_operator.planner.candidates import check_micro_batch, check_resume, forbidden_strategy, process_counts
from finetune_operator.planner.catalogue import UNKNOWN
from finetune_operator.planner.encoded_rows import encoded_bytes
from finetune_operator.planner.estimates import Known
from finetune_operator.planner.explanation import (
    does_not_fit,
    no_capacity,
    not_used,
    over_limits,
    reasons_of,
    with_unused,
)
from finetune_operator.planner.history import corrections_of
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.judging import check_judging, entailment_weights_of, judging_of
from finetune_operator.planner.limits import NO_LIMITS, Limits
from finetune_operator.planner.objectives import check_objective, length_limit, outputs_of
from finetune_operator.planner.own_script import unknown_of_script
from finetune_operator.planner.pools import Pool, pools_of
from finetune_operator.planner.price_list import PriceList
from finetune_operator.planner.publication import check_formats
from finetune_operator.planner.reference import reference_reason
from finetune_operator.planner.reward_models import reward_model_reason, reward_models_of
from finetune_operator.planner.search import Outcome, search
from finetune_operator.planner.sequences import SequencesOfEpoch, sequences_of, total_steps
from finetune_operator.planner.speed import throughput_of
from finetune_operator.planner.targets import check_targets
from finetune_operator.planner.task import Task
from finetune_operator.planner.teacher import ASSUMED, stored_bytes, teacher_in, teacher_reason
from finetune_operator.planner.unsized import multimodal, untraced

STORED_BYTES_PER_PARAMETER = 2
"""Assumed size of downloaded weights where nothing was inspected: bfloat16."""
TRACED = "model: no table knows model_type {}; its memory was traced on fake tensors and is carried over to this plan, with a wider upper bound"


def make_plan(
    spec: FineTuneJobSpec,
    inspection: InspectionReport | None,
    inventory: Inventory,
    *,
    history: History = EMPTY_HISTORY,
    limits: Limits = NO_LIMITS,
    prices: Prices = NO_PRICES,
    config: Mapping[str, JsonValue] | None = None,
    trace: ArchitectureTrace | str | None = None,
    rows: int = 0,
    assumptions: tuple[str, ...] = (),
) -> Plan | PlanError:
    """Return the plan of a job.

    Args:
        spec: What the user wants.
        inspection: What was learned about model and data; None in `finetune plan` without an inspection.
        inventory: What the cluster has.
        history: What finished jobs have measured; it corrects memory and time.
        limits: What the job's namespace may take: quotas and policy.
        prices: What GPUs cost; without a table the catalogue's relative prices choose, and no money is shown.
        config: The model's config.json, where there is no inspection.
        trace: What the oracle measured of a model without a table, where there is no inspection; a text says why it could not.
        rows: Usable rows, where there is no inspection and they are known; 0 leaves the steps open unless training.maxSteps is set.
        assumptions: What the caller assumed, to be shown with the plan.
    """
    question = question_of(
        spec,
        inspection,
        inventory,
        history=history,
        limits=limits,
        prices=prices,
        config=config,
        trace=trace,
        rows=rows,
        assumptions=assumptions,
    )
    if isinstance(question, PlanError):
        return question
    return check_objective(question.task.spec, question.task.architecture) or question.answer()


@dataclass(frozen=True)
class Question:
    """A job that can be planned: nothing in it contradicts itself, and there are nodes of the kind."""

    task: Task
    pools: tuple[Pool, ...]
    """That the spec allows."""
    all_pools: tuple[Pool, ...]
    counts: tuple[int, ...]
    unused: tuple[str, ...]
    sequences: SequencesOfEpoch
    assumptions: tuple[str, ...]

    def plan(self, outcome: Outcome | None) -> Plan | None:
        """Return the plan of what a search found, if it found one."""
        if outcome is None or outcome.chosen is None:
            return None
        reasons = (
            *reasons_of(self.task, outcome.chosen, outcome, self.all_pools),
            *self.sequences.reasons,
            *filter(None, (reference_reason(self.task.spec, outcome.chosen.split.strategy, self.task.passes),)),
            *filter(None, (teacher_reason(self.task.spec, outcome.chosen.sized.workload),)),
            *filter(None, (reward_model_reason(self.task.spec, self.task.reward_models),)),
            *self.unused,
        )
        return _plan(self.task, outcome.chosen, reasons, self.sequences, self.assumptions)

    def search(self, known: Known) -> Outcome | None:
        """Return what there is; None where no kind of node takes so many processes."""
        return search(self.task, self.pools, self.counts, known)

    def answer(self) -> Plan | PlanError:
        """Return the plan, or why there is none and what would help."""
        known: Known = {}
        outcome = self.search(known)
        plan = self.plan(outcome)
        if plan is not None:
            return plan
        if outcome is None or outcome.nearest is None:
            return with_unused(no_capacity(self.task.spec, self.pools, self.counts), self.unused)
        if outcome.refused is not None:
            return over_limits(self.task, outcome.refused, self.pools, known)
        error = does_not_fit(self.task, outcome.nearest, self.pools, self.all_pools, self.counts, known)
        return with_unused(error, self.unused)


def question_of(
    spec: FineTuneJobSpec,
    inspection: InspectionReport | None,
    inventory: Inventory,
    *,
    history: History = EMPTY_HISTORY,
    limits: Limits = NO_LIMITS,
    prices: Prices = NO_PRICES,
    config: Mapping[str, JsonValue] | None = None,
    trace: ArchitectureTrace | str | None = None,
    rows: int = 0,
    assumptions: tuple[str, ...] = (),
    kept_free_bytes: int = 0,
) -> Question | PlanError:
    """Return what is to be planned, or why that needs no search to be refused; arguments as `make_plan`'s.

    Models that the estimator knows and the trainer cannot start yet (encoders) are questions as well: `make_plan` refuses them afterwards.

    `kept_free_bytes` of every GPU are not used, beyond the usual reserve: what an earlier attempt lacked.
    """
    if inspection is not None:
        config, trace = inspection.model.config, inspection.model.trace or inspection.model.trace_error
    if config is None:
        return PlanError(
            reason=Reason.UNKNOWN_ARCHITECTURE,
            message=f"nothing is known about {spec.model.uri}; give an inspection, or a local folder with its config.json",
        )
    head = HEADS.get(spec.objective)
    labels = outputs_of(spec, inspection)
    architecture = architecture_of(config, None if isinstance(trace, str) else trace, head=head, labels=labels)
    if isinstance(architecture, PlanError):
        return untraced(architecture, trace) if isinstance(trace, str) else architecture
    if "text_config" in config:
        return multimodal(spec)
    if architecture.traced:
        assumptions = (*assumptions, TRACED.format(architecture.model_type))
    if limits.problem:
        return PlanError(reason=Reason.QUOTA_EXCEEDED, message=limits.problem, waits=True)
    counts = process_counts(spec)
    if isinstance(counts, PlanError):
        return counts
    resume = None if inspection is None else inspection.resume
    refusal = forbidden_strategy(spec) or check_micro_batch(spec, counts) or check_targets(spec, architecture)
    refusal = refusal or check_resume(spec, counts, resume) or check_formats(spec, config)
    refusal = refusal or check_judging(spec, inspection)
    if refusal is not None:
        return refusal
    teacher = teacher_in(spec, inspection, architecture)
    if isinstance(teacher, PlanError):
        return teacher
    if teacher is not None and inspection is None:
        assumptions = (*assumptions, ASSUMED)
    made = sequences_of(spec, architecture.model_type, inspection, rows, cut=length_limit(spec, architecture))
    if isinstance(made, PlanError):
        return made
    if resume is not None and resume.step >= (last := total_steps(spec, made.count)):
        return PlanError(
            reason=Reason.INVALID_SPEC,
            message=f"checkpoint.resumeFrom: {resume.uri} is of step {resume.step} and this job has {last} steps; raise training.epochs or "
            "training.maxSteps",
        )
    rewards = reward_models_of(spec, inspection, architecture)
    if isinstance(rewards, PlanError):
        return rewards
    entailment = entailment_weights_of(spec, inspection)
    downloaded = inspection.model.weight_bytes if inspection else architecture.parameters * STORED_BYTES_PER_PARAMETER
    task = Task(
        spec=spec,
        architecture=architecture,
        sequence_length=made.longest,
        weight_bytes=downloaded + stored_bytes(inspection, teacher) + rewards.stored_bytes + entailment,
        reward_models=rewards.architectures,
        corrections=corrections_of(history),
        limits=limits,
        prices=PriceList(prices),
        lengths=None if inspection is None or made.packed else inspection.dataset.tokens,
        packed=made.packed,
        passes=_passes(spec, made),
        teacher=teacher,
        entailment_weights=entailment,
        encoded_bytes=encoded_bytes(spec, inspection, max_length=length_limit(spec, architecture), packed=made.packed),
        resume=resume,
    )
    pools, all_pools = pools_of(spec, inventory, kept_free_bytes)
    unused = not_used(spec, inventory)
    if not pools:
        return with_unused(no_capacity(spec, all_pools, counts), unused)
    return Question(
        task, pools, all_pools, counts, unused, made, (*assumptions, *made.assumptions, *rewards.assumptions)
    )


def _passes(spec: FineTuneJobSpec, made: SequencesOfEpoch) -> float | None:
    """How often training sees each row."""
    if spec.training.max_steps is None:
        return spec.training.epochs_or_default
    return spec.training.max_steps * spec.training.global_batch_size / made.count if made.count else None


def _plan(
    task: Task, chosen: Candidate, reasons: tuple[str, ...], made: SequencesOfEpoch, assumptions: tuple[str, ...]
) -> Plan:
    spec, split, architecture = task.spec, chosen.split, task.architecture
    is_gpu = chosen.pool.product is not None
    trainable = trainable_parameters(architecture, chosen.sized.workload)
    adapters = 0 if spec.tuning.trains_base else trainable
    judged = judging_of(
        spec,
        architecture,
        chosen.sized.workload,
        chosen.pool.capacity_bytes if is_gpu else chosen.resources.memory_bytes,
        chosen.per_pod if is_gpu else 1,
        task.entailment_weights,
    )
    return Plan(
        accelerator=spec.resources.accelerator,
        gpu_product=chosen.pool.product,
        gpu_memory_bytes=chosen.pool.capacity_bytes if is_gpu else None,
        gpu_tflops=chosen.pool.gpu.tflops if is_gpu and chosen.pool.gpu is not UNKNOWN else None,
        gpu_resource=chosen.pool.resource,
        processes=split.processes,
        pods=chosen.pods,
        processes_per_pod=chosen.per_pod,
        strategy=split.strategy,
        micro_batch_size=split.micro_batch,
        gradient_accumulation=split.accumulation,
        global_batch_size=spec.training.global_batch_size,
        gradient_checkpointing=split.checkpointing,
        offload=split.offload,
        max_length=length_limit(spec, architecture),
        rows=made.rows,
        packed=made.packed,
        precomputed_reference=chosen.sized.workload.precomputed_reference,
        sequences=made.count,
        steps_per_epoch=ceil(made.count / spec.training.global_batch_size),
        total_steps=total_steps(spec, made.count),
        trainable_parameters=trainable,
        total_parameters=architecture.parameters + adapters,
        memory=chosen.sized.memory,
        resources=chosen.resources,
        throughput=throughput_of(task, chosen, total_steps(spec, made.count)),
        # What another program does would correct the formulas of ours.
        prediction=chosen.prediction(task) if spec.trainer is None else None,
        reasons=(*unknown_of_script(spec), *reasons, *filter(None, (judged.reason,))),
        assumptions=assumptions,
        evaluation_batch_size=judged.batch,
    )
