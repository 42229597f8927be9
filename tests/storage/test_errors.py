import pytest
from obstore import exceptions

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.reasons import Reason
from finetune_trainer.storage import StorageRefused, StorageSettings, StorageUnavailable, open_writable
from finetune_trainer.storage_errors import translated

SECRETS = "<AWSAccessKeyId>AKIAKEY</AWSAccessKeyId> sig=abcdef GET https://host/x?sig=abcdef"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            FileNotFoundError("status 404 Not Found: <Code>NoSuchBucket</Code>"),
            StorageRefused,
            "the bucket does not exist",
        ),
        (
            exceptions.PermissionDeniedError(f"status 403 <Code>SignatureDoesNotMatch</Code> {SECRETS}"),
            StorageRefused,
            "403",
        ),
        (exceptions.GenericError(f"status 403 <Code>AccessDenied</Code> {SECRETS}"), StorageRefused, "refuses access"),
        (
            FileNotFoundError(f"status 404 <Code>XAdminUserNotFound</Code> {SECRETS}"),
            StorageRefused,
            "does not accept the credentials",
        ),
        (
            exceptions.GenericError(f"status 400 <Code>InvalidAccessKeyId</Code> {SECRETS}"),
            StorageRefused,
            "credentials",
        ),
        (exceptions.GenericError("error requesting 169.254.169.254"), StorageRefused, "no credentials"),
        (exceptions.GenericError("No CA certificates were loaded from the system"), StorageRefused, "ca-certificates"),
        (exceptions.GenericError("status 301 Moved"), StorageRefused, "AWS_REGION"),
        (exceptions.GenericError("status 503 <Code>SlowDown</Code>"), StorageUnavailable, "503"),
        (exceptions.GenericError("status 429"), StorageUnavailable, "429"),
        (exceptions.GenericError("operation timed out"), StorageUnavailable, "no answer in time"),
        (exceptions.PreconditionError("status 412"), StorageUnavailable, "changed while"),
        (PermissionError(13, "Permission denied"), StorageRefused, "refuses access"),
        (OSError(28, "No space left on device"), StorageRefused, "No space left"),
    ],
)
def test_each_failure_is_for_a_person_or_for_time(error: Exception, kind: type[Exception], words: str) -> None:
    ours = translated(error, "s3://bucket/x")
    assert type(ours) is kind
    assert str(ours).startswith("s3://bucket/x: ")
    assert words in str(ours)
    assert "AKIAKEY" not in str(ours)
    assert "abcdef" not in str(ours)


def test_a_store_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(StorageUnavailable, match="connection refused") as failure:
        open_writable("s3://bucket", StorageSettings(retries=0)).put_small("x", b"")
    assert failure.value.exit_code is ExitCode.STORAGE_DOWN
    assert failure.value.reason is Reason.STORAGE_UNAVAILABLE
    assert failure.value.__suppress_context__, "the store's own text must not reach the log by way of a traceback"
