"""How `finetune` ends when it comes to no training; a training that fails passes on the trainer's own code (api/exit_codes.py)."""

from __future__ import annotations

from typing import Final

BAD_INPUT: Final = 2
"""A file or argument cannot be used; argparse ends with the same."""
NO_PLAN: Final = 3
"""The job can be read, and there is no plan for it."""
CLOSED_PIPE: Final = 141
"""Whoever read the output went away before its end: 128 + SIGPIPE, as other programs end."""
