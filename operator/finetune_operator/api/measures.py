"""What a training measures beside its loss, by names that metrics, run events, reports and docs share.

An objective's recipe (finetune_trainer.objectives) says under which names its library logs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Objective

MEASURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "token_accuracy": "Share of the counted tokens (0 to 1) that the model gave the highest probability.",
        "batch_accuracy": "Share of the step's classes (0 to 1) that the model gave the highest probability, before it learned from them.",
        "accuracy": "Share of the evaluation rows' classes (0 to 1) that the model gave the highest probability.",
        "macro_f1": "F1 of each class over the evaluation rows, averaged with equal weight for every class that stands in them.",
        "entity_precision": "Share of the entities that the model named (0 to 1) that are in the evaluation rows, all words and the type (seqeval).",
        "entity_recall": "Share of the entities in the evaluation rows (0 to 1) that the model named so.",
        "entity_f1": "Harmonic mean of the two.",
        "spearman": "Rank correlation (-1 to 1, Spearman) of the evaluation rows' scores with the cosines of their vectors, or the model's scores.",
        "pair_accuracy": "Share of the evaluation rows (0 to 1) whose score and the model's probability are on the same side of a half.",
        "retrieval_accuracy": "Share of the evaluation rows (0 to 1) whose second text is the closest to the first in its batch.",
        "reward_deviation": "Standard deviation of the rewards of all answers.",
        "reward_ties": "Share of the prompts (0 to 1) whose answers are all worth the same, so that nothing is learned from them.",
        "completion_length": "Mean length of the answers in tokens.",
        "completions_cut": "Share of the answers (0 to 1) that came to maxCompletionLength without an end.",
        "entropy": "Mean entropy of the model's next-token distribution over the counted tokens, in nats.",
        "reward_margin": "Mean of the chosen answers' rewards minus the rejected ones'.",
        "reward_accuracy": "Share of the pairs (0 to 1) whose chosen answer has the higher reward.",
        "reward_chosen": "Mean reward of the chosen answers; of dpo: beta times the nats by which the model finds them likelier than the reference.",
        "reward_rejected": "The same of the rejected answers.",
        "reward_mean": "Mean reward of all answers; of grpo and rloo the weighted sum, and reward_mean:<name> one of them before its weight.",
        "log_probability_chosen": "Mean log-probability of the chosen answers, all tokens of each (of orpo: of a token), in nats.",
        "log_probability_rejected": "The same of the rejected answers.",
        "log_odds_ratio": "Mean of the chosen answers' log-odds minus the rejected ones', in nats.",
        "likelihood_loss": "Part of the loss that is the chosen answers' mean negative log-likelihood per token, in nats.",
        "teacher_kl": "How far the student is from its teacher: mean KL(teacher ‖ student) of the next token over the counted ones, in nats, both at "
        "training.distill.temperature.",
        "kl": "How far the model is from the reference in nats: of kto per answer to other prompts, at least 0; of grpo and rloo per token.",
    }
)
"""Name → meaning; the series `finetune_measure{measure="<name>"}`."""


_CLASSES: Final = ("loss", "accuracy", "macro_f1")
ENTITY_MEASURES: Final = ("entity_precision", "entity_recall", "entity_f1")
HELD_OUT_MEASURES: Final[Mapping[Objective, tuple[str, ...]]] = MappingProxyType(
    {
        Objective.REWARD: ("loss", "reward_accuracy", "reward_margin"),
        Objective.CLASSIFICATION: _CLASSES,
        Objective.TOKEN_CLASSIFICATION: (*_CLASSES, *ENTITY_MEASURES),
        Objective.EMBEDDING: ("loss", "spearman", "retrieval_accuracy"),
        Objective.RERANKER: ("loss", "spearman", "pair_accuracy"),
    }
)
"""Objectives whose finished model is judged by the evaluation of the last step → the numbers that it may tell; the others are judged by answers
(`evaluation.metrics`). `loss` is the mean one of the evaluation rows."""
_PART_OF_ENTITY: Final = re.compile(r"[BIES]-.+")
"""Tags of words in the schemes IOB2 and IOBES; `O` is for words outside."""


def names_entities(names: Iterable[str]) -> bool:
    """Whether the classes are tags of entities: without a B-, words of a class are not joined to entities and count one by one."""
    tags = [name for name in names if name != "O"]
    return all(_PART_OF_ENTITY.fullmatch(name) for name in tags) and any(name.startswith("B-") for name in tags)
