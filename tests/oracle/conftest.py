"""What all tests of the oracle share: silence."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator

import pytest

Quietly = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Transformers, PEFT and TRL warn about what does not matter to shapes."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def quietly() -> Quietly:
    """For fixtures that live longer than a test."""
    return _silence


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with _silence():
        yield
