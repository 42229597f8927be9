"""The calls that a fake API server has had, and the faults that wait for one."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.controller.kube import ApiError, Unavailable


@dataclass(frozen=True)
class Call:
    """One request that arrived."""

    verb: str
    kind: str
    namespace: str
    name: str
    subresource: str = ""
    manager: str = ""

    @property
    def writes(self) -> bool:
        """Whether it could have changed an object."""
        return self.verb in ("apply", "create", "replace", "delete")


@dataclass
class Fault:
    """An error that is waiting for its call."""

    verb: str
    kind: str
    error: ApiError
    skip: int
    times: int
    carried_out: bool


def timed_out() -> Unavailable:
    """Return the error of a request that got no answer in time."""
    return Unavailable(0, "Timeout", "no answer within the time limit")
