"""What a checkpoint costs: how long the step loop waits, and how long until it is durable, against transformers' usual save and boto3's upload.

    python bench/checkpoint.py [--layers 2] [--rounds 4]

Both save the same model and AdamW state to the same S3 server in the same run, each in a process of its own, after an optimizer step each time.
The server is versitygw (tests/cluster/testbed/s3.py), whose objects lie in memory so that no disk of a server is measured. The usual way is
save_pretrained and torch.save to the local disk, then `upload_file` of every file, in the step loop. boto3 is what most training scripts upload
with; it is a dependency of tests and benchmarks only. Prints JSON: medians over the rounds after the first, which allocates the buffers. GiB are
of weights and optimizer state. CPU seconds are there because they stay right on a machine that has other work. `durable_ratio` cannot be below
`durable_ratio_of_sending_alone`: the same store given the same bytes from memory, neither copied nor hashed; `floor_seconds_per_gib` has the parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIB = 2**30
BUCKET = "bench"


def main() -> None:
    """Start the server, run both ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="of 150 MiB of state each, beside 96 MiB of embeddings")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--way", choices=("usual", "ours", "floor"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way = {"usual": _usual, "ours": _ours, "floor": _floor}[options.way]
        print(json.dumps(way(options.folder, options.layers, options.rounds)))
        return
    # A server that is left behind would keep its objects in memory.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="checkpoint-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="checkpoint-bench-", dir=memory) as bucket,
    ):
        print(json.dumps(_compare(Path(folder), Path(bucket), options.layers, options.rounds), indent=2))


def _compare(folder: Path, bucket: Path, layers: int, rounds: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cluster"))
    from testbed.s3 import S3Server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = S3Server(bucket / "server", "127.0.0.1", port)
    server.start()
    try:
        server.create_bucket(BUCKET)
        secret = server.secret("keys")["stringData"]
        found = {}
        for way in ("usual", "ours"):
            before = _cpu_seconds(server)
            found[way] = _run(way, folder / way, layers, rounds, secret)
            found[way]["server_cpu"] = (_cpu_seconds(server) - before) / rounds
        floor = _run("floor", folder / "floor", layers, rounds, secret)
    finally:
        server.stop()
    usual, ours = found["usual"], found["ours"]
    return {
        "state_gib": round(ours["bytes"] / GIB, 3),
        "stall_ratio": _ratio(ours["stall"], usual["durable"]),
        "stall_ratio_to_saving_alone": _ratio(ours["stall"], usual["save"]),
        "durable_ratio": _ratio(ours["durable"], usual["durable"]),
        "durable_ratio_of_sending_alone": _ratio(floor["put_without_hashing"], _per_gib(usual, "durable")),
        "goals": {"stall_ratio": 0.1, "durable_ratio": 0.5},
        "peak_extra_host_memory_per_byte_of_state": {
            way: round(found[way]["extra_memory"] / ours["bytes"], 2) for way in found
        },
        "seconds_per_gib": {
            "usual": {"stall": _per_gib(usual, "durable"), "saving_alone": _per_gib(usual, "save")},
            "ours": {name: _per_gib(ours, name) for name in ("stall", "durable", "first_stall")},
        },
        "cpu_seconds_per_gib": {
            way: {"client": _per_gib(found[way], "cpu"), "server": _per_gib(found[way], "server_cpu")} for way in found
        },
        "floor_seconds_per_gib": floor,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "machine": platform.machine(),
    }


def _run(way: str, folder: Path, layers: int, rounds: int, secret: dict[str, str]) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    command += ["--layers", str(layers), "--rounds", str(rounds)]
    environment = {**os.environ, **secret, "NO_PROXY": "*", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cpu_seconds(server: Any) -> float:
    from testbed.s3 import PROGRAM

    fields = Path(f"/proc/{server.processes.pid(PROGRAM)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ratio(one: float, other: float) -> float:
    return round(one / other, 3)


def _per_gib(found: dict[str, Any], name: str) -> float:
    return round(found[name] / found["bytes"] * GIB, 2)


class _Training:
    """A model with its optimizer state, whose every tensor changes in place from step to step."""

    def __init__(self, layers: int) -> None:
        import peft.peft_model  # noqa: F401 - a training has imported all this before its first save
        import torch
        import torch.distributed.checkpoint
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 4096}
        self.model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.step()
        self.bytes = 3 * sum(parameter.nbytes for parameter in self.model.parameters())

    def step(self) -> None:
        import torch

        for parameter in self.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        """Save as transformers' Trainer does."""
        import torch

        self.model.save_pretrained(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")


class _Memory:
    """By how much this process's resident memory rises at its highest."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    @property
    def extra(self) -> int:
        """Bytes more than at the start."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _usual(folder: Path, layers: int, rounds: int) -> dict[str, Any]:
    import boto3

    training, client = _Training(layers), boto3.client("s3")
    saves, durables, memory, processor = [], [], _Memory(), time.process_time()
    for number in range(rounds):
        training.step()
        checkpoint = folder / f"checkpoint-{number}"
        started = time.monotonic()
        training.save(checkpoint)
        saves.append(time.monotonic() - started)
        for path in sorted(checkpoint.rglob("*")):
            client.upload_file(str(path), BUCKET, f"usual/{number}/{path.name}")
        durables.append(time.monotonic() - started)
    return {
        "bytes": training.bytes,
        "cpu": (time.process_time() - processor) / rounds,
        "save": statistics.median(saves[1:]),
        "durable": statistics.median(durables[1:]),
        "extra_memory": memory.extra,
    }


def _ours(folder: Path, layers: int, rounds: int) -> dict[str, Any]:
    from finetune_trainer.attempt import Place
    from finetune_trainer.capture import Capture, HostCopies
    from finetune_trainer.checkpoint_writer import CheckpointWriter
    from finetune_trainer.collective import Collective
    from finetune_trainer.storage import open_writable
    from finetune_trainer.testing import tiny_attempt, write_rows

    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    attempt = tiny_attempt(folder, write_rows(folder / "rows.jsonl", []), folder, checkpoint={"keep": 2})
    storage = open_writable(f"s3://{BUCKET}/ours")
    events: list[Any] = []
    committed = threading.Event()

    def on_commit(event: Any) -> None:
        events.append(event)
        committed.set()

    training, copies = _Training(layers), HostCopies()
    place = Place(rank=0, world_size=1, local_rank=0, local_world_size=1)
    memory, processor = _Memory(), time.process_time()
    writer = CheckpointWriter(attempt, place, storage, Collective(1), start=1, verified=None, on_commit=on_commit)
    for number in range(rounds):
        training.step()
        committed.clear()
        checkpoint = folder / f"checkpoint-{number}"
        checkpoint.mkdir()
        started = time.monotonic()
        capture = Capture(checkpoint, copies)
        with capture.instead_of_writing():
            training.save(checkpoint)
        writer.begin(number + 1, checkpoint, started, capture.files)
        if writer.finish() is not None or not committed.wait(120):
            raise SystemExit("the checkpoint was not committed")
    extra, processor = memory.extra, time.process_time() - processor
    writer.close()
    stalls = [event.stall_seconds for event in events]
    return {
        "bytes": training.bytes,
        "stall": statistics.median(stalls[1:]),
        "first_stall": stalls[0],
        "cpu": processor / rounds,
        "durable": statistics.median(event.seconds for event in events[1:]),
        "extra_memory": extra,
    }


def _floor(folder: Path, layers: int, rounds: int) -> dict[str, float]:
    """What each part takes alone: none of them could be left out."""
    import hashlib

    import obstore

    from finetune_trainer.capture import Capture, HostCopies
    from finetune_trainer.storage import CONCURRENT_PARTS, PART_BYTES, open_writable

    training, copies = _Training(layers), HostCopies()
    capture = Capture(folder, copies)
    with capture.instead_of_writing():
        training.save(folder)
    storage, state = open_writable(f"s3://{BUCKET}/floor"), training.optimizer.state_dict()
    moments = sum(tensor.nbytes for kept in state["state"].values() for tensor in kept.values())
    copies.of(state)
    content = bytes(256 * 2**20)

    def put() -> None:
        obstore.put(storage._store, "floor/x", content, chunk_size=PART_BYTES, max_concurrency=CONCURRENT_PARTS)

    class Nowhere:
        def write(self, data: Any) -> int:
            return len(data)

        def flush(self) -> None:
            pass

    def serialise() -> None:
        for file in capture.files.values():
            file.write_to(Nowhere())

    return {
        "copy_in_memory": _seconds_per_gib(lambda: copies.of(state), moments),
        "serialise": _seconds_per_gib(serialise, training.bytes),
        "sha256": _seconds_per_gib(lambda: hashlib.sha256(content), len(content)),
        "put_without_hashing": _seconds_per_gib(put, len(content)),
    }


def _seconds_per_gib(action: Callable[[], object], size: int) -> float:
    times = []
    for _ in range(3):
        started = time.monotonic()
        action()
        times.append(time.monotonic() - started)
    return round(statistics.median(times) / size * GIB, 2)


if __name__ == "__main__":
    main()
