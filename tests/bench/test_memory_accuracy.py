import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from accuracy.report import report, scored
from accuracy.rows import MetricKind, Row, metric_kind, read_rows
from accuracy.score import Outcome, figures, percentile
from accuracy.unmet import why_unmet

PROGRAM = Path(__file__).parents[2] / "bench" / "memory_accuracy.py"
KEYS = {
    "groups",
    "coverage",
    "median_abs_error",
    "p90_abs_error",
    "under_by_5_percent",
    "above_upper",
    "median_upper_ratio",
}
LLAMA = {
    "id": "made-up/1",
    "group": "made-up/a",
    "source": "made-up",
    "quality": "A",
    "use": "memory",
    "phase": "finetune",
    "model": "meta-llama/Llama-3.2-1B",
    "params_b": "1.235814",
    "hidden": "2048",
    "layers": "16",
    "heads": "32",
    "kv_heads": "8",
    "head_dim": "64",
    "intermediate": "8192",
    "vocab": "128256",
    "tied": "1",
    "gpu": "L40S",
    "n_gpus": "1",
    "method": "lora",
    "rank": "16",
    "target_modules": "q_proj,v_proj",
    "weight_dtype": "bfloat16",
    "trainable_dtype": "float32",
    "compute_precision": "bf16 autocast",
    "optimizer": "AdamW",
    "micro_batch": "2",
    "seq_len": "1024",
    "grad_accum": "1",
    "grad_ckpt": "1",
    "attention": "sdpa",
    "sharding": "none",
    "fused_loss": "0",
    "framework": "somebody's loop",
    "metric_kind": "peak_reserved",
    "measured_gib": "8.0",
}


def row(**changes: str) -> Row:
    return Row({**LLAMA, **changes})


def outcome(group: str, expected: float | None, *, measured: float = 10.0, upper: float | None = None) -> Outcome:
    return Outcome(group, "source", "lora", measured, expected, upper if upper is not None else expected, True)


def written(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(LLAMA))
        writer.writeheader()
        writer.writerows({**LLAMA, **changes} for changes in rows)
    return path


def test_reruns_count_once_with_their_median_error() -> None:
    reruns = [outcome("a", 9.0), outcome("a", 10.0), outcome("a", 12.0)]
    found = figures([*reruns, outcome("b", 8.0)])
    assert found["groups"] == 2
    assert found["median_abs_error"] == pytest.approx((0.0 + 0.2) / 2)
    assert found["under_by_5_percent"] == 0.5


def test_a_group_is_above_upper_when_its_median_upper_lies_below_what_was_measured() -> None:
    found = figures([outcome("a", 9.0, upper=9.9), outcome("a", 9.0, upper=9.8), outcome("b", 9.0, upper=12.0)])
    assert found["above_upper"] == 0.5
    assert found["median_upper_ratio"] == pytest.approx((0.985 + 1.2) / 2)


def test_rows_without_a_prediction_lower_coverage_by_their_share_of_the_group() -> None:
    found = figures([outcome("a", 10.0), outcome("a", None), outcome("b", None)])
    assert found["coverage"] == 0.25
    assert found["median_abs_error"] == 0.0


def test_no_rows_give_no_figures() -> None:
    assert figures([])["median_abs_error"] is None
    assert percentile([1.0, 2.0, 3.0], 0.9) == pytest.approx(2.8)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("peak_allocated", MetricKind.ALLOCATED),
        ("peak_active", MetricKind.ALLOCATED),
        ("peak_reserved", MetricKind.RESERVED),
        ("nvidia-smi", MetricKind.DEVICE),
        ("VRAM usage (kind not stated)", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_a_figure_is_compared_as_what_its_source_says_that_it_is(text: str, kind: MetricKind | None) -> None:
    assert metric_kind(text) is kind


def test_unstated_kinds_and_pretraining_are_listed_under_their_source_and_not_in_the_headline() -> None:
    rows = scored(
        [
            row(),
            row(group="made-up/b", metric_kind="unknown (kind not stated)"),
            row(group="made-up/c", phase="pretrain"),
            row(group="made-up/d", quality="C"),
        ]
    )
    found = report(rows)
    assert found["groups"] == 1
    by_source = found["by_source"]
    assert isinstance(by_source, dict)
    assert by_source["made-up"]["groups"] == 4
    assert sum(by_source["made-up"]["left_out"].values()) == 3


def test_a_source_that_misses_a_goal_says_why_and_one_that_does_not_says_nothing() -> None:
    good = {
        "coverage": 1.0,
        "median_abs_error": 0.01,
        "p90_abs_error": 0.05,
        "under_by_5_percent": 0.0,
        "above_upper": 0.0,
    }
    assert why_unmet("ms-swift-benchmark", good) is None
    assert "order that is not published" in str(why_unmet("ms-swift-benchmark", {**good, "under_by_5_percent": 0.2}))
    assert why_unmet("made-up", {**good, "above_upper": 0.02}) == "not looked into"
    assert why_unmet("made-up", {**good, "coverage": 0.5}) == "not looked into"


def test_methods_that_the_trainer_cannot_launch_count_for_the_headline_but_not_for_launchable() -> None:
    rows = [row(), row(group="made-up/b", method="qlora", quant="gptq-4bit"), row(group="made-up/c", method="vera")]
    found = report(scored(rows))
    assert found["groups"] == 3
    launchable = found["launchable"]
    assert isinstance(launchable, dict)
    assert launchable["groups"] == 1


@pytest.mark.parametrize("column", [name for name in LLAMA if name not in ("use", "measured_gib")])
@pytest.mark.parametrize("value", ["", "nonsense", "-1", "1e309", "0", "½ × 3"])
def test_a_value_that_nobody_foresaw_is_no_crash(column: str, value: str) -> None:
    (result,) = scored([row(**{column: value})])
    assert result.outcome.group


def test_a_row_without_widths_is_listed_with_its_reason() -> None:
    found = report(scored([row(hidden="", model="who/knows")]))
    assert found["coverage"] == 0
    assert found["not_predicted"] == [
        {"row": "made-up/1", "reason": "column hidden is '': without it the model's tensors are not known"}
    ]


def test_rows_of_other_uses_are_not_scored(tmp_path: Path) -> None:
    path = written(tmp_path, {}, {"use": "oom"}, {"use": "memory", "measured_gib": ""})
    assert len(read_rows(path)) == 1


def test_the_program_prints_json_with_every_key(tmp_path: Path) -> None:
    path = written(tmp_path, {}, {"group": "made-up/b", "seq_len": "2048", "measured_gib": "11"})
    done = subprocess.run([sys.executable, PROGRAM, path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["launchable"].keys() == KEYS
    assert found["groups"] == 2
    assert set(found["peers"]) == {"deepspeed", "accelerate", "sixteen_bytes"}
    assert set(found["by_method"]) == {"lora"}
    assert all(part.keys() >= KEYS for part in found["peers"].values())


def test_the_program_names_the_file_that_is_no_such_csv(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    done = subprocess.run([sys.executable, PROGRAM, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has no column group, measured_gib, use" in done.stderr


def test_people_get_a_table_and_the_largest_errors(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    command = [sys.executable, PROGRAM, path, "--table", "--worst", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "headline" in done.stdout
    assert "made-up/a" in done.stdout
