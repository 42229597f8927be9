"""One tracker in a thread of its own: whatever it does, or does not do, the training never waits for it and never fails by it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Final, Literal

from finetune_trainer.trackers.tracker import Kind, Record, Told, Tracker

RECORDS_HELD: Final = 100_000
"""What waits for a slow server, about 100 MB; more is left out."""

_Item = Record | Literal["flush", "finished", "failed"]


class Feed:
    """The queue and the thread of one tracker."""

    def __init__(
        self,
        tracker: Tracker,
        read_told: Callable[[], Told],
        *,
        upload: Callable[[Tracker, Told], None],
        on_problem: Callable[[str, str], None],
        on_well: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._tracker = tracker
        self._read_told, self._upload = read_told, upload
        self._on_problem, self._on_well = on_problem, on_well
        self._items: queue.Queue[_Item] = queue.Queue()
        self._told: dict[Kind, int] = {}
        self._works = True
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name=f"tracker-{tracker.name}", daemon=True)
        self._thread.start()

    def tell(self, record: Record) -> None:
        """Hand over numbers."""
        if self._works and self._items.qsize() < RECORDS_HELD:
            self._items.put(record)
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Let the tracker write what it holds back, and upload its files."""
        if self._works:
            self._items.put("flush")

    def end(self, ended: Literal["finished", "failed"]) -> None:
        """Let the tracker close, without waiting for it."""
        self._items.put(ended)

    def wait(self, seconds: float) -> None:
        """Wait until it has closed; one that does not in that time is given up."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._on_problem(self._tracker.name, f"it was not done {seconds:.0f} s after the training")

    def _run(self) -> None:
        try:
            self._told = {**self._tracker.open(self._read_told())}
            while self._take(self._items.get()):
                pass
            if self._left_out:
                self._on_problem(self._tracker.name, f"it was too slow: {self._left_out} records were left out")
        except Exception as error:  # whatever a library or a server does
            self._works = False
            self._on_problem(self._tracker.name, f"{type(error).__name__}: {_first_line(error)}")

    def _take(self, item: _Item) -> bool:
        """Do what the queue says; return whether it goes on."""
        records = []
        while isinstance(item, Record):
            if item.step > self._told.get(item.kind, 0):
                records.append(item)
            if self._items.empty():
                break
            item = self._items.get()
        if records:
            self._tracker.tell(tuple(records))
            for record in records:
                self._told[record.kind] = record.step
        if isinstance(item, Record):
            return True
        if item == "flush":
            if self._tracker.flush():
                self._send()
            return True
        self._tracker.close(item)
        self._send()
        return False

    def _send(self) -> None:
        """Upload what there is; a store that fails now is tried again with the next checkpoint."""
        try:
            self._upload(self._tracker, dict(self._told))
        except Exception as error:
            self._on_problem(self._tracker.name, f"its files were not uploaded: {_first_line(error)}")
        else:
            self._on_well(self._tracker.name)


def wait_for_all(feeds: Iterable[Feed], seconds: Callable[[], float]) -> None:
    """Wait for each, for as long as `seconds` says that there is time."""
    for feed in feeds:
        feed.wait(max(0.1, seconds()))


def _first_line(error: Exception) -> str:
    """Return the first line of an error's words, at most 300 characters: servers answer with whole pages."""
    return (str(error).strip().splitlines() or [""])[0][:300]
