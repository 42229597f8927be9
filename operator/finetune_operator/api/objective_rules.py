"""What of a spec has no meaning with an objective, or does not work with it: each a rule of the CRD with its reason and remedy."""

from __future__ import annotations

from typing import Any, Final

from finetune_operator.api.compatibility import (
    ENCODING,
    LABELLING,
    LEARN_TEXTS,
    ONLINE,
    PAIRING,
    PREFERENCES,
    SHARDED_STRATEGIES,
    Method,
    Objective,
)
from finetune_operator.api.datasets import EVALUATES_CEL
from finetune_operator.api.layouts import listed
from finetune_operator.api.model import Rule
from finetune_operator.api.online import KL_WEIGHTS
from finetune_operator.api.preference import OBJECTIVE_SETTINGS

_TEXTS: Final = ", ".join(f"'{objective}'" for objective in Objective if objective in LEARN_TEXTS)
_PREFERENCES: Final = ", ".join(f"'{objective}'" for objective in PREFERENCES)
_ONLINE: Final = ", ".join(f"'{objective}'" for objective in ONLINE)
_LABELLING: Final = ", ".join(f"'{objective}'" for objective in LABELLING)
ANSWERING: Final = (Objective.SFT, Objective.PRETRAIN, Objective.DPO, Objective.ORPO, Objective.DISTILL)
"""Objectives whose models are measured after the training, by the answers that their rows have."""
_ANSWERING: Final = ", ".join(f"'{objective}'" for objective in ANSWERING)
_PAIRING: Final = ", ".join(f"'{objective}'" for objective in PAIRING)
_ENCODING: Final = ", ".join(f"'{objective}'" for objective in ENCODING)
_WITHOUT_WORDS: Final = (Objective.REWARD, *ENCODING)


def _own_block(objective: Objective) -> Rule:
    """Return the rule that an objective's settings stand in a job of that objective only."""
    return Rule(
        cel=f"self.objective == '{objective}' || !has(self.training.{objective})",
        message=f"training.{objective} belongs to objective: {objective}; set that objective or remove the block",
        holds=lambda s: s.objective is objective or getattr(s.training, objective) is None,
    )


def _penalty_off(objective: Objective, block: str) -> str:
    """Return the CEL expression that there is no KL penalty."""
    unset = "true" if KL_WEIGHTS[objective] == 0 else "false"
    return f"(has({block}.beta) ? {block}.beta == 0.0 : {unset})"


def _generated(objective: Objective) -> tuple[Rule, ...]:
    """Return the rules of an objective whose answers are generated."""

    def settings(spec: Any) -> Any:
        return getattr(spec.training, objective) if spec.objective is objective else None

    block, is_it = f"self.training.{objective}", f"self.objective == '{objective}' && has(self.training.{objective})"
    return (
        Rule(
            cel=f"self.objective != '{objective}' || has({block})",
            message=f"training.{objective}: objective {objective} needs rewards; write for example rewards: [{{verifier: exact-number}}] there",
            holds=lambda s: s.objective is not objective or settings(s) is not None,
        ),
        Rule(
            cel=f"!({is_it}) || self.training.globalBatchSize % {block}.generations == 0",
            message=f"training.globalBatchSize counts answers: make it a multiple of training.{objective}.generations",
            holds=lambda s: settings(s) is None or s.training.global_batch_size % settings(s).generations == 0,
        ),
        Rule(
            cel=f"!({is_it}) || {_penalty_off(objective, block)} || self.tuning.method != 'full' || "
            f"!(self.resources.strategy in ['fsdp', 'zero1', 'zero2', 'zero3'])",
            message=f"resources.strategy: the model that beta compares with would be one more whole model in every process of a sharded run with "
            f"method: full; set training.{objective}.beta: 0, method: lora, or strategy: ddp",
            holds=lambda s: (
                settings(s) is None
                or s.training.kl_weight == 0
                or s.tuning.method is not Method.FULL
                or s.resources.strategy not in SHARDED_STRATEGIES
            ),
        ),
        Rule(
            cel=f"!({is_it}) || {block}.maxCompletionLength < self.training.maxLength",
            message=f"training.{objective}.maxCompletionLength is part of training.maxLength, and prompts need the rest; lower it or raise maxLength",
            holds=lambda s: settings(s) is None or settings(s).max_completion_length < s.training.max_length,
        ),
    )


OBJECTIVE_RULES: Final = (
    Rule(
        cel="self.objective != 'pretrain' || self.training.truncation == 'right'",
        message="training.truncation: objective pretrain cuts documents into pieces and loses nothing; remove truncation",
        holds=lambda s: s.objective is not Objective.PRETRAIN or s.training.truncation == "right",
    ),
    Rule(
        cel=f"!(self.objective in [{_PREFERENCES}]) || self.training.truncation == 'right'",
        message=f"training.truncation: the answers of objectives {listed(PREFERENCES, 'and')} are cut on the right; remove truncation",
        holds=lambda s: s.objective not in PREFERENCES or s.training.truncation == "right",
    ),
    Rule(
        cel=f"self.objective in [{_TEXTS}] || self.training.packing != 'best-fit'",
        message="training.packing: best-fit joins texts that are learned token by token (objective: sft, pretrain, distill), not rows that are "
        "compared or have classes; set packing: none",
        holds=lambda s: s.objective in LEARN_TEXTS or s.training.packing != "best-fit",
    ),
    Rule(
        cel=f"self.objective in [{_TEXTS}, 'orpo'] || self.training.lossOn != 'all'",
        message="training.lossOn: all counts prompts, which only the likelihoods of objective: sft, orpo and distill can; set lossOn: completions",
        holds=lambda s: s.objective in (*LEARN_TEXTS, Objective.ORPO) or s.training.loss_on != "all",
    ),
    Rule(
        cel=f"self.objective != 'kto' || !{EVALUATES_CEL}",
        message="dataset: split and evaluation are not for objective: kto, whose loss depends on which rows meet in a batch; remove them, or use "
        "objective: dpo with pairs",
        holds=lambda s: s.objective is not Objective.KTO or not s.evaluates,
    ),
    Rule(
        cel=f"!has(self.evaluation.metrics) || self.evaluation.metrics.size() == 0 || self.objective in [{_ANSWERING}]",
        message=f"evaluation.metrics: answers are compared of objectives {listed(ANSWERING, 'and')} alone; others are measured on the evaluation "
        "rows during training; remove metrics",
        holds=lambda s: not s.evaluation.metrics or s.objective in ANSWERING,
    ),
    Rule(
        cel=f"!has(self.evaluation.harness) || self.objective in [{_ANSWERING}]",
        message=f"evaluation.harness: tasks are for models that write, of objectives {listed(ANSWERING, 'and')}; remove harness",
        holds=lambda s: s.evaluation.harness is None or s.objective in ANSWERING,
    ),
    Rule(
        cel="self.objective != 'pretrain' || !has(self.evaluation.metrics) || self.evaluation.metrics.all(metric, metric == 'perplexity')",
        message="evaluation.metrics: rows of objective: pretrain have no answers to compare with; leave perplexity alone",
        holds=lambda s: s.objective is not Objective.PRETRAIN or not s.evaluation.generates,
    ),
    Rule(
        cel=f"!(self.objective in [{_ONLINE}]) || !{EVALUATES_CEL}",
        message=f"dataset: split and evaluation are not for objectives {listed(ONLINE, 'and')}, whose loss says nothing about answers (it is near 0 "
        "whatever they are worth); watch reward_mean, and remove them",
        holds=lambda s: s.objective not in ONLINE or not s.evaluates,
    ),
    Rule(
        cel=f"!(self.objective in [{_ONLINE}]) || self.training.truncation == 'right' && !self.training.groupByLength",
        message=f"training: objectives {listed(ONLINE, 'and')} cut no prompt, and take prompts in the order in which their answers are compared; "
        "remove truncation and groupByLength",
        holds=lambda s: (
            s.objective not in ONLINE or (s.training.truncation == "right" and not s.training.group_by_length)
        ),
    ),
    *map(_own_block, OBJECTIVE_SETTINGS),
    *(rule for objective in ONLINE for rule in _generated(objective)),
    Rule(
        cel=f"!(self.objective in [{_ONLINE}]) || self.tuning.method in ['full', 'lora']",
        message=f"tuning.method: objectives {listed(ONLINE, 'and')} were tried with full and lora alone; set one of them",
        holds=lambda s: s.objective not in ONLINE or s.tuning.method in (Method.FULL, Method.LORA),
    ),
    Rule(
        cel=f"!(self.objective in [{_PREFERENCES}]) || self.tuning.method in ['full', 'lora', 'qlora']",
        message=f"tuning.method: objectives {listed(PREFERENCES, 'and')} were tried with full, lora and qlora; set one of them",
        holds=lambda s: s.objective not in PREFERENCES or s.tuning.method in (Method.FULL, Method.LORA, Method.QLORA),
    ),
    Rule(
        cel="self.objective != 'kto' || self.training.globalBatchSize > 1 && (!has(self.resources.microBatchSize) || "
        "self.resources.microBatchSize > 1)",
        message="objective: kto compares each answer with other rows; set training.globalBatchSize and resources.microBatchSize to 2 or more",
        holds=lambda s: (
            s.objective is not Objective.KTO or (s.training.global_batch_size > 1 and s.resources.micro_batch_size != 1)
        ),
    ),
    Rule(
        cel="self.objective != 'kto' || self.tuning.method != 'full' || !(self.resources.strategy in ['fsdp', 'zero1', 'zero2', 'zero3'])",
        message="resources.strategy: the frozen reference of objective: kto with method: full is not sharded; use strategy: ddp, or method: lora",
        holds=lambda s: (
            s.objective is not Objective.KTO
            or s.tuning.method is not Method.FULL
            or s.resources.strategy not in SHARDED_STRATEGIES
        ),
    ),
    Rule(
        cel="self.objective != 'reward' || self.tuning.method != 'qlora'",
        message="tuning.method: qlora would store the new head of objective: reward in 4 bits; use method: lora or full",
        holds=lambda s: s.objective is not Objective.REWARD or s.tuning.method is not Method.QLORA,
    ),
    Rule(
        cel=f"!(self.objective in [{_LABELLING}]) || self.tuning.method in ['full', 'freeze', 'lora']",
        message=f"tuning.method: objectives {listed(LABELLING, 'and')} were tried with full, freeze and lora alone; set one of them",
        holds=lambda s: s.objective not in LABELLING or s.tuning.method in (Method.FULL, Method.FREEZE, Method.LORA),
    ),
    Rule(
        cel=f"!(self.objective in [{_PAIRING}]) || self.tuning.method in ['full', 'lora']",
        message=f"tuning.method: objectives {listed(PAIRING, 'and')} were tried with full and lora alone; set one of them",
        holds=lambda s: s.objective not in PAIRING or s.tuning.method in (Method.FULL, Method.LORA),
    ),
    Rule(
        cel="self.objective != 'embedding' || !(self.resources.strategy in ['fsdp', 'zero1', 'zero2', 'zero3'])",
        message="resources.strategy: objective: embedding compares all rows of a global batch, which was tried where every process has the whole "
        "model; use strategy: single or ddp",
        holds=lambda s: s.objective is not Objective.EMBEDDING or s.resources.strategy not in SHARDED_STRATEGIES,
    ),
    Rule(
        cel="self.objective != 'embedding' || self.training.globalBatchSize > 1",
        message="training.globalBatchSize: objective: embedding compares each row with the others of its batch; set it to 2 or more, 64 is usual",
        holds=lambda s: s.objective is not Objective.EMBEDDING or s.training.global_batch_size > 1,
    ),
    Rule(
        cel="self.objective != 'distill' || has(self.training.distill)",
        message="training.distill: objective distill needs a teacher; write for example teacher: {uri: hf://org/name} there",
        holds=lambda s: s.objective is not Objective.DISTILL or s.training.distill is not None,
    ),
    Rule(
        cel="self.objective != 'distill' || self.tuning.method in ['full', 'lora']",
        message="tuning.method: objective distill was tried with full and lora alone; set one of them",
        holds=lambda s: s.objective is not Objective.DISTILL or s.tuning.method in (Method.FULL, Method.LORA),
    ),
    Rule(
        cel="self.objective != 'distill' || !(self.resources.strategy in ['fsdp', 'zero1', 'zero2', 'zero3'])",
        message="resources.strategy: the teacher of objective: distill is whole in every process, which was tried with whole students alone; use "
        "strategy: single or ddp",
        holds=lambda s: s.objective is not Objective.DISTILL or s.resources.strategy not in SHARDED_STRATEGIES,
    ),
    Rule(
        cel=f"!(self.objective in ['reward', {_ENCODING}]) || !has(self.output.gguf) || self.output.gguf.size() == 0",
        message=f"output.gguf: objectives {listed(_WITHOUT_WORDS, 'and')} make models that give numbers, and llama.cpp runs models that write; "
        "remove output.gguf",
        holds=lambda s: s.objective not in _WITHOUT_WORDS or not s.output.gguf,
    ),
)
