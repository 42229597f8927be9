"""What is said when the evaluation after the training runs out of GPU memory.

Never that a GPU ran out of memory by itself (`GPUOutOfMemory`): the operator then plans the training anew, which is over by that time. What helps is
another evaluation, so it is the spec's fault, told with what to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure, failure_of


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU had too little memory, by torch's own error or by one of CUDA's libraries."""
    return failure_of(error).exit_code is ExitCode.GPU_OUT_OF_MEMORY


def does_not_fit(what: str, remedy: str, error: BaseException) -> TrainerFailure:
    """Return what the user is told: `what` names field and value, `remedy` what to change."""
    return TrainerFailure(
        ExitCode.BAD_SPEC,
        f"{what} does not fit the GPU ({failure_of(error).message.rstrip('.')}); {remedy}, in a new job: the evaluation of one that has started is "
        "fixed. The trained model is in the bucket; a new job can go on from an earlier checkpoint of this one (checkpoint.resumeFrom)",
    )


@contextmanager
def fitting(what: str, remedy: str) -> Iterator[None]:
    """Do one part of the evaluation; other errors than those of GPU memory pass as they are.

    Raises:
        TrainerFailure: the part does not fit the GPU.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_gpu_memory(error):
            raise
        raise does_not_fit(what, remedy, error) from error
