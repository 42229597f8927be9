"""What counts as a change of a status."""

from __future__ import annotations

from finetune_operator.controller.status_body import comparable


def test_a_status_that_differs_only_in_progress_and_times_is_the_same() -> None:
    old = {
        "state": "Running",
        "progress": {"step": 1},
        "conditions": [{"type": "A", "status": "True", "lastTransitionTime": "1"}],
    }
    new = {
        "state": "Running",
        "attempts": [],
        "conditions": [{"type": "A", "status": "True", "lastTransitionTime": "2"}],
    }
    assert comparable(old) == comparable(new)
    assert comparable(old) != comparable({**new, "conditions": [{"type": "A", "status": "False"}]})
