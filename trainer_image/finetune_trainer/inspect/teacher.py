"""The teacher of objective distill, looked at before GPUs are taken: a whole model that writes, with the student's vocabulary."""

from __future__ import annotations

from finetune_operator.api.distillation import TEACHER_FIELD
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.model_types import ENCODERS
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import source_of_teacher
from finetune_trainer.lineage import lineage_of_result
from finetune_trainer.model_files import describe_model, open_model
from finetune_trainer.tokenizer_files import TokenizerFiles, read_tokenizer


def teacher_facts(spec: FineTuneJobSpec, student: TokenizerFiles) -> ModelFacts | None:
    """Return what is known about the job's teacher, None where it has none.

    Raises:
        TrainerFailure: The student cannot learn from it.
    """
    if spec.training.distill is None:
        return None
    source = source_of_teacher(spec.training.distill.teacher)
    folder = open_model(source, TEACHER_FIELD)
    if folder.config.get("model_type") in ENCODERS:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{TEACHER_FIELD}: {source.uri} is an encoder ({folder.config['model_type']}), which gives no next token; name a model that writes",
        )
    tokenizer = read_tokenizer(folder.storage)
    if (difference := _difference(student, tokenizer)) is not None:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{TEACHER_FIELD}: the tokenizer of {source.uri} has another vocabulary than that of {spec.model.uri} ({difference}), so that the two "
            "models' next tokens cannot be compared; name a teacher of the same family, or let it write answers and train on them with "
            "objective: sft",
        )
    return describe_model(folder, source, tokenizer, lineage_of_result(folder.storage))


def _difference(student: TokenizerFiles, teacher: TokenizerFiles) -> str | None:
    """Return how two vocabularies differ, None where every token has the same number in both."""
    ours, theirs = (files.tokenizer.get_vocab(with_added_tokens=True) for files in (student, teacher))
    others = sorted((number, token) for token, number in ours.items() if theirs.get(token) != number)
    if not others and len(ours) == len(theirs):
        return None
    if not others:
        return f"it has {len(theirs)} tokens, the student's {len(ours)}"
    number, token = others[0]
    found = theirs.get(token)
    where = "missing" if found is None else f"number {found}"
    return f"{len(others)} of the student's {len(ours)} tokens; {token!r}, number {number}, is {where} there"
