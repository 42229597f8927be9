"""Parts that run for ever side by side: the end of one, error or not, is the end of all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from finetune_operator.controller.logs import describe

logger = logging.getLogger(__name__)


class PartEnded(Exception):
    """A part of the operator that runs for ever has ended."""


async def until_one_ends(parts: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run all parts until the first ends, then cancel the others, in reverse order of their start.

    Raises:
        PartEnded: a part returned; the text names it.
        Exception: whatever a part raised.
    """
    tasks: dict[asyncio.Task[None], str] = {asyncio.create_task(part, name=name): name for name, part in parts.items()}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task in done)
        await ended
        raise PartEnded(f"{tasks[ended]} has ended")
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        for task, name in tasks.items():
            error = None if task.cancelled() else task.exception()
            if error is not None:
                logger.error("%s ended by an error: %s", name, describe(error))
