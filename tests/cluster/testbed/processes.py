"""Programs that outlive the command that started them: their ids and logs lie in one folder, so that any later one can end them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


class TestbedError(Exception):
    """What went wrong, with the place to look or the thing to do."""

    __test__ = False


class Processes:
    """The programs of one folder: `pids/NAME` identifies a program, `logs/NAME.log` is what it printed.

    Names sort by start order ("1-etcd", "2-kube-apiserver"), and all of them end in the reverse order.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.logs = self.directory / "logs"
        self._ids = self.directory / "pids"

    def start(self, name: str, *command: object, environment: Mapping[str, str] | None = None) -> int:
        """Start a program in a session of its own and return its id."""
        for folder in (self.logs, self._ids):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        # It is ended by id, often by another process than this one; that Popen never waits for it is not a leak.
        process.returncode = 0
        # The start time makes the id unique: after a reboot the same number may be somebody else's.
        (self._ids / name).write_text(f"{process.pid} {start_time(process.pid)}\n")
        return process.pid

    def names(self) -> list[str]:
        """Every program that was started and not ended, in start order."""
        return sorted(path.name for path in self._ids.glob("*"))

    def pid(self, name: str) -> int | None:
        """The id of a program, or None when it is not running any more."""
        try:
            number, started = (self._ids / name).read_text().split()
        except FileNotFoundError:
            return None
        return int(number) if start_time(int(number)) == started else None

    def stop(self, name: str, patience: float = 10.0) -> None:
        """End one program: SIGTERM, then SIGKILL when it has not ended after `patience` seconds."""
        self._end(name, ((signal.SIGTERM, patience), (signal.SIGKILL, 2.0)))

    def kill(self, name: str) -> None:
        """End one program as a power cut would: SIGKILL at once."""
        self._end(name, ((signal.SIGKILL, 2.0),))

    def stop_all(self) -> None:
        """End every program, the one that started last first."""
        for name in reversed(self.names()):
            self.stop(name)

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines that a program printed."""
        log = self.logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def wait_until(
        self,
        name: str,
        what: str,
        ready: Callable[[], bool],
        patience: float = 120.0,
        *,
        restart: Callable[[], None] | None = None,
    ) -> None:
        """Wait until a program is ready; when it ended and nothing restarts it, or patience ends, fail with its last words."""
        for _ in until(patience):
            if ready():
                return
            if self.pid(name) is None:
                if restart is None:
                    break
                restart()
        state = "ended" if self.pid(name) is None else f"was not ready after {patience:.0f} s"
        raise TestbedError(f"{name} {state} ({what}). The end of {self.logs / name}.log:\n{self.tail(name)}")

    def _end(self, name: str, signals: tuple[tuple[signal.Signals, float], ...]) -> None:
        for number, patience in signals:
            pid = self.pid(name)
            if pid is None:
                break
            os.kill(pid, number)
            reap(pid, patience)
        (self._ids / name).unlink(missing_ok=True)


def run(*command: object, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Run a command whose output nobody reads; when it fails, the output becomes the error."""
    words = [str(part) for part in command]
    result = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode:
        raise TestbedError(f"{' '.join(words)}\nexited {result.returncode}:\n{result.stdout[-4000:]}")


def output(*command: object, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a command printed; when it fails, its error text becomes the error."""
    words = [str(part) for part in command]
    variables = {**os.environ, **(environment or {})}
    result = subprocess.run(words, input=stdin, env=variables, capture_output=True, text=True)
    if result.returncode:
        raise TestbedError(
            f"{' '.join(words)}\nexited {result.returncode}:\n{(result.stderr or result.stdout)[-4000:]}"
        )
    return result.stdout


def succeeds(*command: object) -> bool:
    """Whether a command exits 0."""
    return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0


def until(patience: float, pause: float = 0.1) -> Iterator[float]:
    """Yield the elapsed seconds, with a pause in between, until patience ends."""
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < patience:
        yield elapsed
        time.sleep(pause)


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when it has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def reap(pid: int, patience: float) -> None:
    """Wait until a process has ended, and collect it when it is our child."""
    for _ in until(patience, pause=0.05):
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:  # another process's child: only /proc tells
            if start_time(pid) is None:
                return


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
