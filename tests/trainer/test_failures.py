"""From an exception to an exit code."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.reasons import Reason
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.launch import wait_for_host
from finetune_trainer.storage_errors import StorageRefused, StorageUnavailable


class OutOfMemoryError(RuntimeError):
    """Named as torch's is: it is recognised without importing torch."""


class DistNetworkError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), ExitCode.GPU_OUT_OF_MEMORY),
        (RuntimeError("NCCL error: Cuda failure 2 'out of memory'"), ExitCode.GPU_OUT_OF_MEMORY),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            ExitCode.GPU_OUT_OF_MEMORY,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), ExitCode.KILLED),
        (DistNetworkError("The client socket has failed to connect"), ExitCode.PEER_LOST),
        (RuntimeError("[pair.cc:537] Read error [10.0.0.1]:1: Connection reset by peer"), ExitCode.PEER_LOST),
        (RuntimeError("NCCL communicator was aborted on rank 1."), ExitCode.PEER_LOST),
        (RuntimeError("shape mismatch"), ExitCode.BUG),
        (ValueError("Connection reset by peer"), ExitCode.BUG),
        (StorageRefused("s3://b/x", "it is not there", "check", missing=True), ExitCode.NOT_FOUND),
        (StorageUnavailable("s3://b/x", "no answer in time", "wait"), ExitCode.STORAGE_DOWN),
        (TrainerFailure(ExitCode.BAD_DATA, "line 3"), ExitCode.BAD_DATA),
        (MemoryError(), ExitCode.KILLED),
    ],
)
def test_an_error_has_the_exit_code_of_what_it_means(error: Exception, code: ExitCode) -> None:
    assert failure_of(error).exit_code is code


def test_what_gloo_advises_is_left_out() -> None:
    error = RuntimeError("Connection reset by peer. This is typically caused by a remote worker hanging")

    assert failure_of(error).message == "another rank went away: Connection reset by peer."


def failed(attempted: Callable[[], object]) -> Exception:
    try:
        attempted()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def test_an_unknown_error_names_its_type_and_place_and_not_its_text() -> None:
    error = failed(lambda: int("SECRET"))

    message = failure_of(error).message

    assert message.startswith("ValueError at test_failures.py:")
    assert "SECRET" not in message


def test_an_unknown_error_of_a_library_names_our_line_and_the_librarys() -> None:
    def resolve(host: str) -> None:
        raise ZeroDivisionError("SECRET")

    error = failed(lambda: wait_for_host("job-0", 60, stopped=lambda: False, resolve=resolve))

    message = failure_of(error).message
    assert message.startswith("ZeroDivisionError at launch.py:")
    assert ", in test_failures.py:" in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("/site-packages/torch/nn/modules/linear.py", True),
        ("/site-packages/torch/utils/data/dataloader.py", False),
        ("/site-packages/torch/_utils.py", False),
        ("/site-packages/datasets/arrow_writer.py", False),
    ],
)
def test_only_libraries_that_see_nothing_but_numbers_are_quoted(file: str, told: bool) -> None:
    source = "def fail():\n    raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')"
    names: dict[str, Callable[[], object]] = {}
    exec(compile(source, file, "exec"), names)

    error = failed(names["fail"])

    assert ("mat1 and mat2" in failure_of(error).message) is told
    assert ("mat1 and mat2" in calls_of(error)) is told


def test_a_full_disk_is_told_without_the_errors_own_words() -> None:
    found = failure_of(OSError(errno.ENOSPC, "SECRET", "SECRET"))

    assert found.exit_code is ExitCode.DISK_FULL
    assert found.message.startswith("the pod's local disk is full")
    assert "SECRET" not in found.message


def test_an_error_of_the_system_is_told_in_the_systems_words() -> None:
    found = failure_of(OSError(errno.EIO, "SECRET", "SECRET"))

    assert found.message.startswith("OSError (Input/output error)")
    assert "SECRET" not in found.message


def test_the_calls_of_a_chain_of_errors_have_no_texts() -> None:
    def chained() -> None:
        try:
            int("SECRET 1")
        except ValueError as first:
            raise LookupError("SECRET 2") from first

    lines = calls_of(failed(chained)).splitlines()

    assert [line for line in lines if line in ("ValueError", "LookupError")] == ["ValueError", "LookupError"]
    assert any("in chained" in line for line in lines)


def test_a_failure_survives_the_way_to_another_rank() -> None:
    failure = TrainerFailure(ExitCode.BAD_SPEC, "the message", Reason.OUTPUT_EXISTS)

    copy = pickle.loads(pickle.dumps(failure))

    assert (copy.exit_code, str(copy), copy.reason) == (ExitCode.BAD_SPEC, "the message", Reason.OUTPUT_EXISTS)
