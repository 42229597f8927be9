"""What published runs say about idle memory: only figures of a stated kind count, and every source counts once."""

from __future__ import annotations

import pytest
from accuracy.rows import Row
from allocator_shares import IdleRun, idle_run, report

RUN = {
    "source": "someone",
    "group": "a",
    "model": "llama-3.1-8b",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "8",
    "intermediate": "14336",
    "vocab": "128256",
    "tied": "0",
    "method": "lora",
    "rank": "16",
    "weight_dtype": "bfloat16",
    "compute_precision": "bf16",
    "micro_batch": "4",
    "seq_len": "4096",
    "seq_kind": "fixed",
    "grad_ckpt": "1",
    "n_gpus": "1",
    "framework": "transformers Trainer",
    "metric_kind": "peak_reserved",
    "measured_gib": "60",
}


def share(**changes: str) -> float:
    found = idle_run(Row({**RUN, **changes}))
    assert found is not None
    assert found.case == "checkpointed, whole logits, one GPU"
    return found.share


def test_a_gib_more_reserved_is_a_gib_more_idle() -> None:
    more = share(measured_gib="61") - share()
    assert more > 0
    assert share(measured_gib="70") - share() == pytest.approx(10 * more)


def test_live_memory_is_the_sources_own_where_it_prints_it() -> None:
    assert share(alloc_gib="50", reserved_gib="60") < share(alloc_gib="45", reserved_gib="60")


def test_a_figure_of_unstated_kind_says_nothing() -> None:
    assert idle_run(Row({**RUN, "metric_kind": "VRAM (kind not stated)"})) is None


def test_a_source_with_many_rows_does_not_decide() -> None:
    def run(source: str, group: str, share: float) -> IdleRun:
        return IdleRun(source, group, checkpointed=True, whole_logits=True, sharded=False, share=share)

    many = [run("many", str(number), 0.9) for number in range(50)]
    found = report([*many, run("one", "a", 0.1), run("two", "b", 0.1), run("two", "b", 0.3)])
    assert found["beside_whole_logits"]["median"] == 0.2
