"""Who calls the progress server: from a bearer token to the pod that holds it and the job that this pod belongs to.

A pod's projected token has our own audience, so that neither a token for the API server works here nor ours there. The
API server checks it (TokenReview) and names the pod it was made for; that pod's labels name the job. Both answers are
kept for a minute: a trainer that reports every few seconds costs two requests a minute. Tokens are never kept or logged,
only their digests.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from finetune_operator.api.constants import ATTEMPT_LABEL, COMPONENT_LABEL, JOB_LABEL, TOKEN_AUDIENCE
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import PODS, Api, Body, NotFound
from finetune_operator.controller.rate_limit import RateLimit

MAXIMUM_AGE_SECONDS: Final = 60.0
REFUSAL_AGE_SECONDS: Final = 5.0
"""A refused token is asked about again soon: the pod that holds it may be newer than what the API server saw."""
CAPACITY: Final = 16_384
TOKEN_LIMIT_BYTES: Final = 16_384
REVIEWS_PER_SECOND: Final = 100
"""Of tokens not seen before. Invented tokens must not become as many requests to the API server."""

_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT: Final = "system:serviceaccount"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Refused(Exception):
    """The caller may not do this: `status` is 401 (who are you?), 403 (not you) or 429 (not now); the text says why."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class TokenHolder:
    """The pod that a token was made for."""

    namespace: str
    pod: str
    pod_uid: str


@dataclass(frozen=True)
class Caller:
    """The pod that calls, and whose it is according to its labels."""

    namespace: str
    pod: str
    job: str
    component: str
    attempt: int | None
    created: str
    """RFC 3339; pods of an earlier job of the same name are older than the job."""


class RecentValues(Generic[Key, Value]):
    """A dictionary whose entries expire and which never holds more than `capacity` of them (the oldest go first)."""

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return the value if it is there and fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry[1]

    def put(self, key: Key, value: Value, seconds: float) -> None:
        """Keep a value for so many seconds."""
        self._entries.pop(key, None)
        self._entries[key] = (self._clock.monotonic() + seconds, value)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


class Callers:
    """Tells who holds a token."""

    def __init__(self, api: Api, clock: Clock, *, audience: str = TOKEN_AUDIENCE, capacity: int = CAPACITY) -> None:
        self._api = api
        self._audience = audience
        self._reviews = RateLimit(clock, per_second=REVIEWS_PER_SECOND, burst=2 * REVIEWS_PER_SECOND)
        self._holders: RecentValues[bytes, TokenHolder | Refused] = RecentValues(clock, capacity)
        self._callers: RecentValues[TokenHolder, Caller | Refused] = RecentValues(clock, capacity)

    async def caller(self, authorization: str) -> Caller:
        """Return the pod behind an Authorization header.

        Raises:
            Refused: 401 without a valid token, 403 when its pod does not belong to any job, 429 with too many new tokens.
            ApiError: the API server could not be asked.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused(401, f"send the pod's token of audience {self._audience}: Authorization: Bearer <token>")
        if len(token) > TOKEN_LIMIT_BYTES:
            raise Refused(401, f"the token is longer than {TOKEN_LIMIT_BYTES} bytes")
        holder = await self._holder(token.strip())
        known = self._callers.get(holder)
        if known is None:
            known = await self._pod(holder)
            self._callers.put(holder, known, _keep_for(known))
        return _or_raise(known)

    async def _holder(self, token: str) -> TokenHolder:
        digest = hashlib.sha256(token.encode()).digest()
        known = self._holders.get(digest)
        if known is None:
            if not self._reviews.allows("all"):
                raise Refused(429, f"more than {REVIEWS_PER_SECOND} new tokens per second; try again later")
            known = self._read_review(await self._api.create(_token_review(token, self._audience)))
            self._holders.put(digest, known, _keep_for(known))
        return _or_raise(known)

    def _read_review(self, review: Body) -> TokenHolder | Refused:
        status: dict[str, Any] = review.get("status") or {}
        # An API server that does not know audiences answers without them: such an answer is about another audience.
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or ()):
            return Refused(401, f"the API server does not accept this token for the audience {self._audience}")
        user: dict[str, Any] = status.get("user") or {}
        extra: dict[str, list[str]] = user.get("extra") or {}
        name, uid = _only(extra.get(_POD_NAME)), _only(extra.get(_POD_UID))
        account, _, namespace_and_name = str(user.get("username", "")).removeprefix(_SERVICE_ACCOUNT).partition(":")
        namespace = namespace_and_name.partition(":")[0]
        if account or not (name and uid and namespace):
            return Refused(403, "the token is not bound to a pod; use the token projected into the job's own pods")
        return TokenHolder(namespace, name, uid)

    async def _pod(self, holder: TokenHolder) -> Caller | Refused:
        try:
            pod = await self._api.get(PODS, holder.namespace, holder.pod)
        except NotFound:
            return Refused(403, f"pod {holder.namespace}/{holder.pod} does not exist any more")
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        if metadata.get("uid") != holder.pod_uid:
            return Refused(403, f"pod {holder.namespace}/{holder.pod} is another one than the token was made for")
        if not labels.get(JOB_LABEL):
            return Refused(403, f"pod {holder.namespace}/{holder.pod} belongs to no FineTuneJob (label {JOB_LABEL})")
        attempt = labels.get(ATTEMPT_LABEL, "")
        return Caller(
            namespace=holder.namespace,
            pod=holder.pod,
            job=labels[JOB_LABEL],
            component=labels.get(COMPONENT_LABEL, ""),
            attempt=int(attempt) if attempt.isdecimal() else None,
            created=metadata.get("creationTimestamp", ""),
        )


def _token_review(token: str, audience: str) -> Body:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": token, "audiences": [audience]},
    }


def _only(values: list[str] | None) -> str:
    return values[0] if values and len(values) == 1 else ""


def _keep_for(answer: object) -> float:
    return REFUSAL_AGE_SECONDS if isinstance(answer, Refused) else MAXIMUM_AGE_SECONDS


def _or_raise(answer: Value | Refused) -> Value:
    if isinstance(answer, Refused):
        # A new exception each time: a kept one would collect the traceback of every request.
        raise Refused(answer.status, str(answer))
    return answer
