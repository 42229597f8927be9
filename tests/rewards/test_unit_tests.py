"""Code runs with its tests in a process with limits, and cannot claim to have passed."""

from __future__ import annotations

import pytest

from finetune_trainer.rewards import unit_tests
from finetune_trainer.rewards.unit_tests import code_in, passed_share

RIGHT = "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."
TESTS = ["assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'bb'"]


def test_the_share_of_passed_tests_is_the_reward() -> None:
    assert passed_share(RIGHT, TESTS) == pytest.approx(2 / 3)


def test_the_last_fenced_block_counts_or_all_of_a_text_without_one() -> None:
    assert code_in("```\na = 1\n```\nbetter:\n```py\na = 2\n```") == "a = 2\n"
    assert code_in("a = 3") == "a = 3"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def double(x: return",
        "import sys; sys.stdout.close()",
        "x = bytearray(2 * 1024**3)\ndef double(x): return 4",
        "while True: print('x' * 1000)",
        "open('large', 'wb').write(bytes(2 * 1024**2))\ndef double(x): return 4",
    ],
)
def test_code_that_ends_early_or_takes_too_much_earns_nothing(code: str) -> None:
    assert passed_share(code, TESTS[:1]) == 0.0


def test_code_that_never_ends_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_tests, "SECONDS", 1)
    assert passed_share("import subprocess\nsubprocess.run(['sleep', '1000'])", TESTS[:1]) == 0.0


def test_the_code_sees_no_variables_of_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert passed_share("import os", ["assert 'AWS_SECRET_ACCESS_KEY' not in os.environ"]) == 1.0


def test_without_tests_nothing_is_earned() -> None:
    assert passed_share(RIGHT, []) == 0.0
