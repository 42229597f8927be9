"""What `bench/throughput_accuracy.py` counts, on rows made here: lengths, scopes, groups and the rule of thumb."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from accuracy.rows import Row
from speed.measured import Speed, measured, read_rows
from speed.report import figures, report, scored

ROW = {
    "id": "one",
    "group": "one",
    "source": "made-up",
    "quality": "A",
    "use": "memory",
    "phase": "finetune",
    "model": "meta-llama/Llama-2-7b-hf",
    "params_b": "6.738416",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "32",
    "head_dim": "128",
    "intermediate": "11008",
    "vocab": "32000",
    "tied": "0",
    "gpu": "A100-80G",
    "n_gpus": "1",
    "method": "lora",
    "rank": "16",
    "micro_batch": "4",
    "seq_len": "2048",
    "seq_kind": "fixed",
    "grad_accum": "2",
    "grad_ckpt": "1",
    "sharding": "none",
    "tokens_per_s": "3000",
    "tps_scope": "total",
    "framework": "somebody's loop",
}


def row(**changes: str) -> Row:
    return Row({**ROW, **changes})


def test_tokens_per_second_of_one_gpu_count_for_all_of_them() -> None:
    assert measured(row(n_gpus="4", tps_scope="per_gpu")) == Speed(12_000.0, 2048)


def test_the_real_mean_length_is_tokens_by_samples() -> None:
    assert measured(row(samples_per_s="10", seq_len="")) == Speed(3000.0, 300)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seq_kind": "fixed", "step_time_s": "8.192"}, Speed(2000.0, 2048)),
        ({"seq_kind": "packed to 2048", "samples_per_s": "2"}, Speed(4096.0, 2048)),
    ],
)
def test_samples_and_steps_of_known_length_become_tokens(changes: dict[str, str], expected: Speed) -> None:
    assert measured(row(tokens_per_s="", **changes)) == expected


def test_a_longest_length_alone_says_nothing() -> None:
    assert "unknown amount" in str(measured(row(tokens_per_s="", seq_kind="max", step_time_s="1")))


def test_rows_are_counted_by_group_and_what_cannot_be_predicted_lowers_coverage() -> None:
    rows = scored([row(), row(id="two"), row(group="other", gpu="Some GPU")])
    found = figures(rows, lambda case: case.speed.tokens_per_second * 1.5)
    assert found["groups"] == 2
    assert found["coverage"] == 0.5
    assert found["median_abs_error"] == 0.5


def test_the_report_has_the_rule_of_thumb_beside_the_roofline(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerows([ROW, {**ROW, "group": "oom", "use": "oom"}])
    found: dict[str, Any] = report(scored(read_rows(path)))
    assert found["groups"] == 1
    assert found["median_abs_error"] < 0.25
    assert found["baseline"]["median_abs_error"] == pytest.approx(312e12 * 0.4 / (6 * 6.738e9) / 3000 - 1, abs=0.01)
    assert found["by_gpu"]["A100-80G"]["groups"] == 1


def test_another_file_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="tokens_per_s"):
        read_rows(path)
