"""What can go wrong with a store, in two classes: what a person must mend and what only time mends.

The words are ours. The stores' texts hold access key ids, signatures and signed URLs, so only what is known to be harmless is taken from
them: the HTTP status, S3's error code, the kind of network failure.
"""

from __future__ import annotations

import re
from typing import Final

from obstore import exceptions

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.reasons import Reason


class StorageError(Exception):
    """A store did not do what it was asked."""

    exit_code: ExitCode
    reason: Reason

    def __init__(self, uri: str, problem: str, remedy: str) -> None:
        super().__init__(f"{uri}: {problem}; {remedy}")
        self.uri = uri
        self.problem = problem
        self.remedy = remedy


class StorageRefused(StorageError):
    """It is not there, or the credentials are wrong or not enough: a person must look at it."""

    exit_code = ExitCode.NOT_FOUND
    reason = Reason.STORAGE_REFUSED

    def __init__(self, uri: str, problem: str, remedy: str, *, missing: bool = False) -> None:
        super().__init__(uri, problem, remedy)
        self.missing = missing
        """The object, bucket or folder does not exist."""


class StorageUnavailable(StorageError):
    """It does not answer, or answers with an error of its own: it may work later."""

    exit_code = ExitCode.STORAGE_DOWN
    reason = Reason.STORAGE_UNAVAILABLE


class AlreadyExists(StorageError):
    """A create-only write found the object there."""

    exit_code = ExitCode.BAD_SPEC
    reason = Reason.OUTPUT_EXISTS


_STATUS: Final = re.compile(r"status(?: code)?:? (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_FILE_SYSTEM: Final = re.compile(r"([A-Z][A-Za-z -]{1,60}) \(os error \d+\)")
_NETWORK: Final = (
    ("timed out", "no answer in time"),
    ("Connection refused", "connection refused"),
    ("dns error", "the endpoint's host name is unknown"),
    ("reset by peer", "connection reset"),
    ("certificate", "the TLS certificate was not accepted"),
    ("error sending request", "the request could not be sent"),
)
_CREDENTIALS: Final = "check the Secret in credentials.storage (or the pod's service account) and the bucket's policy"
_UNKNOWN_KEY_CODES: Final = frozenset(
    {"InvalidAccessKeyId", "XAdminUserNotFound", "AuthenticationFailed", "InvalidToken"}
)
"""XAdminUserNotFound is versitygw's, with status 404: it must not pass for a missing object."""
_TEMPORARY_STATUS: Final = frozenset({408, 425, 429})
_UNUSABLE: Final = (
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
    ValueError,
)


def translated(error: Exception, uri: str) -> StorageError:
    """Return the error of ours for one that obstore or the operating system raised."""
    text = str(error)
    status_match, code_match = _STATUS.search(text), _CODE.search(text)
    status, code = int(status_match[1]) if status_match else None, code_match[1] if code_match else ""
    words = ", ".join(part for part in (f"HTTP {status}" if status else "", code) if part)
    said = f" ({words})" if words else ""
    if isinstance(error, exceptions.AlreadyExistsError):
        return AlreadyExists(uri, "it is there already", "nothing was written")
    if isinstance(error, exceptions.UnauthenticatedError) or code in _UNKNOWN_KEY_CODES or status == 401:
        return StorageRefused(uri, f"the store does not accept the credentials{said}", _CREDENTIALS)
    if isinstance(error, (exceptions.PermissionDeniedError, PermissionError)) or status == 403:
        return StorageRefused(uri, f"the store refuses access{said}", _CREDENTIALS)
    if isinstance(error, FileNotFoundError) or status == 404:
        what = "the bucket does not exist" if code == "NoSuchBucket" else "it is not there"
        return StorageRefused(uri, f"{what}{said}", "check the URI; bucket and path must exist", missing=True)
    if isinstance(error, exceptions.PreconditionError):
        return StorageUnavailable(uri, f"it changed while it was being read{said}", "it is tried again")
    if "CA certificates" in text:
        return StorageRefused(
            uri,
            "this machine has no CA certificates, without which no store can be opened (not even over http)",
            "install the package ca-certificates in the image, or set SSL_CERT_FILE",
        )
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return StorageRefused(uri, "there are no credentials for it", _CREDENTIALS)
    if status is not None and 300 <= status < 500 and status not in _TEMPORARY_STATUS:
        return StorageRefused(
            uri,
            f"the store refuses the request{said}",
            "check the URI and, in the Secret, AWS_REGION and AWS_ENDPOINT_URL",
        )
    if isinstance(error, _UNUSABLE):
        return StorageRefused(
            uri,
            f"the location or the store's settings are not usable ({type(error).__name__})",
            "check the URI and the AWS_*, GOOGLE_* or AZURE_* settings in the Secret",
        )
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
        return StorageRefused(
            uri, f"the file system refuses it ({error.strerror})", "check path, permissions and free space"
        )
    file_system = _FILE_SYSTEM.search(text)
    if uri.startswith("file://") and file_system is not None:
        return StorageRefused(
            uri, f"the file system refuses it ({file_system[1]})", "check path, permissions and free space"
        )
    network = next((words for key, words in _NETWORK if key in text), "the store failed")
    return StorageUnavailable(
        uri, f"{network}{said}", "check the endpoint (AWS_ENDPOINT_URL) and the network; it is tried again"
    )
