import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.reasons import Reason
from finetune_trainer.inspect.command import run
from finetune_trainer.turn_end import end_generation_with_turns

Build = Callable[..., InspectionRequest]


@pytest.fixture
def inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[InspectionRequest], tuple[int, dict[str, Any]]]:
    """Run the command in this process; return its exit code and termination message."""

    def run_it(request: InspectionRequest) -> tuple[int, dict[str, Any]]:
        monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "termination"))
        (tmp_path / "request.json").write_text(request.model_dump_json(by_alias=True, exclude_none=True))
        code = run(["--job", str(tmp_path / "request.json"), "--output", str(tmp_path / "report.json")])
        return code, json.loads((tmp_path / "termination").read_text())

    return run_it


def report(tmp_path: Path) -> InspectionReport:
    return InspectionReport.model_validate_json((tmp_path / "report.json").read_text())


def test_a_good_job_is_reported(request_for: Build, inspect: Any, tmp_path: Path) -> None:
    code, said = inspect(request_for())
    assert (code, said["reason"]) == (0, Reason.INSPECTED)
    found = report(tmp_path)
    assert (found.dataset.rows, found.dataset.format, found.dataset.dropped) == (100, "prompt-completion", 0)
    assert sum(found.dataset.tokens.counts) == 100
    assert found.dataset.packed is not None
    assert found.dataset.tokens.total <= found.dataset.packed.sequences * found.dataset.packed.longest
    assert found.key == "0123456789abcdef"


def test_a_chat_template_by_name_is_used_where_the_tokenizer_has_its_tokens(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path, model: Path
) -> None:
    (model / "chat_template.jinja").unlink()
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows.write_text(json.dumps({"messages": talk}) + "\n")
    code, said = inspect(request_for(model={"chatTemplate": "llama3"}))
    assert (code, said["reason"]) == (40, Reason.INVALID_SPEC)
    assert "<|start_header_id|>" in said["message"]
    code, _ = inspect(request_for(model={"chatTemplate": "chatml"}))
    assert code == 0
    assert report(tmp_path).model.has_chat_template


@pytest.mark.parametrize(
    ("before", "after"), [({"eos_token_id": 0, "top_k": 5}, [0, 2]), ({"eos_token_id": [0, 2]}, [0, 2]), ({}, [2])]
)
def test_a_published_model_stops_where_its_templates_turns_end(
    model: Path, before: dict[str, Any], after: list[int]
) -> None:
    path = model / "generation_config.json"
    path.write_text(json.dumps(before))
    end_generation_with_turns(model, None)
    assert json.loads(path.read_text()) == before
    end_generation_with_turns(model, "chatml")
    assert json.loads(path.read_text()) == {**before, "eos_token_id": after}


def test_the_probe_leaves_nothing_and_the_full_report_is_beside_the_model(
    request_for: Build, inspect: Any, tmp_path: Path
) -> None:
    inspect(request_for())
    left = [str(path.relative_to(tmp_path / "output")) for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert left == ["inspections/0123456789abcdef.json"]


def test_bad_rows_within_the_allowance_are_dropped_and_listed(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path
) -> None:
    rows.write_text(rows.read_text() + 'not json\n{"prompt": "SECRETWORD"}\n')
    code, _ = inspect(request_for())
    found = report(tmp_path).dataset
    assert (code, found.rows, found.dropped) == (0, 100, 2)
    assert [(item.file, item.line, item.reason) for item in found.problems] == [
        ("train.jsonl", 101, "not valid JSON at character 1 of the line"),
        ("train.jsonl", 102, "column completion is missing"),
    ]
    assert found.dropped_by_reason == {
        "not valid JSON at character # of the line": 1,
        "column completion is missing": 1,
    }


def test_too_many_bad_rows_fail_and_the_message_names_lines_and_reasons(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path
) -> None:
    rows.write_text(rows.read_text() + '{"prompt": "SECRETWORD", "completion": ""}\n' * 10)
    code, said = inspect(request_for())
    assert (code, said["reason"]) == (41, Reason.INVALID_DATA)
    assert "10 of 110 rows" in said["message"]
    assert "train.jsonl:101: column completion is empty" in said["message"]
    assert "maxDropped allows 5.00%" in said["message"]
    assert not (tmp_path / "report.json").exists()
    full = (tmp_path / "output/inspections/0123456789abcdef.json").read_text()
    assert len(json.loads(full)["problems"]) == 10
    assert "SECRETWORD" not in full + said["message"]


def test_no_usable_row_fails_whatever_is_allowed(request_for: Build, inspect: Any, rows: Path) -> None:
    rows.write_text('{"prompt": 1, "completion": 2}\n')
    code, said = inspect(request_for(dataset={"filters": {"maxDropped": 1.0}}))
    assert code == 41
    assert "none of the 1 rows" in said["message"]


def test_an_empty_data_set_fails(request_for: Build, inspect: Any, rows: Path) -> None:
    rows.write_text("\n")
    code, said = inspect(request_for(dataset={"format": "messages"}))
    assert code == 41
    assert "has no rows" in said["message"]


def test_long_rows_are_counted_and_those_without_answer_dropped(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path
) -> None:
    rows.write_text(
        rows.read_text()
        + json.dumps({"prompt": "x " * 100, "completion": "y"})
        + "\n"
        + json.dumps({"prompt": "x", "completion": "y " * 100})
        + "\n"
    )
    inspect(request_for(training={"maxLength": 64}))
    found = report(tmp_path).dataset
    assert (found.rows, found.dropped, found.truncated) == (101, 1, 1)
    assert found.problems[0].reason == "no token of the answer is within training.maxLength (64)"


def test_equal_rows_are_counted(request_for: Build, inspect: Any, tmp_path: Path, rows: Path) -> None:
    rows.write_text(rows.read_text() * 2)
    inspect(request_for())
    assert report(tmp_path).dataset.duplicates == 100


def test_messages_need_a_chat_template(request_for: Build, inspect: Any, rows: Path, model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    code, said = inspect(request_for())
    assert code == 41
    assert "has no chat template" in said["message"]


def test_several_files_are_read_in_the_order_of_their_names(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path
) -> None:
    rows.with_name("a.jsonl").write_text("bad\n" + rows.read_text())
    inspect(request_for(dataset={"uri": f"file://{rows.parent}/*.jsonl"}))
    found = report(tmp_path).dataset
    assert [file.uri.rsplit("/", 1)[1] for file in found.files] == ["a.jsonl", "train.jsonl"]
    assert (found.rows, found.problems[0].file) == (200, "a.jsonl")


def test_a_missing_data_set_is_refused_storage(request_for: Build, inspect: Any, rows: Path) -> None:
    rows.unlink()
    code, said = inspect(request_for())
    assert (code, said["reason"]) == (43, Reason.STORAGE_REFUSED)
    assert str(rows) in said["message"]


def publish_as(uid: str, folder: Path) -> None:
    folder.mkdir()
    manifest = Manifest(
        kind="model", namespace="team", job="other", uid=uid, attempt=1, step=1, world_size=1, strategy="single",
        created_at="2026-01-01T00:00:00Z", versions={}, files=(),
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))


def test_another_jobs_model_at_the_output_is_not_overwritten(request_for: Build, inspect: Any, tmp_path: Path) -> None:
    publish_as("uid-2", tmp_path / "output")
    code, said = inspect(request_for())
    assert (code, said["reason"]) == (40, Reason.OUTPUT_EXISTS)
    assert "job team/other" in said["message"]


@pytest.mark.parametrize(("uid", "if_exists"), [("uid-1", "fail"), ("uid-2", "overwrite")])
def test_ones_own_model_or_one_that_may_be_overwritten_is_no_obstacle(
    request_for: Build, inspect: Any, tmp_path: Path, uid: str, if_exists: str
) -> None:
    publish_as(uid, tmp_path / "output")
    assert inspect(request_for(output={"ifExists": if_exists}))[0] == 0


def test_an_output_that_cannot_be_written_fails_before_the_data_is_read(
    request_for: Build, inspect: Any, tmp_path: Path, rows: Path
) -> None:
    rows.write_text("bad\n")
    (tmp_path / "output").write_text("a file where the folder should be")
    code, said = inspect(request_for())
    assert (code, said["reason"]) == (43, Reason.STORAGE_REFUSED)
    assert f"file://{tmp_path}/output" in said["message"]


def test_a_request_that_cannot_be_read_names_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "termination"))
    (tmp_path / "request.json").write_text('{"namespace": "x"}')
    assert run(["--job", str(tmp_path / "request.json")]) == 40
    assert "spec" in (tmp_path / "termination").read_text()


def test_inspecting_loads_neither_torch_nor_transformers(request_for: Build, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(request_for().model_dump_json(by_alias=True, exclude_none=True))
    program = (
        "import sys; from finetune_trainer.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'pandas'} & set(sys.modules); "
        "sys.exit(code or (print(heavy) or 99 if heavy else 0))"
    )
    arguments = ["inspect", "--job", str(tmp_path / "request.json"), "--output", str(tmp_path / "report.json")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_checkpoint_to_start_from_that_is_not_there_is_told_before_the_rows_are_read(
    request_for: Build, inspect: Any, tmp_path: Path
) -> None:
    code, said = inspect(request_for(checkpoint={"resumeFrom": f"file://{tmp_path}/gone"}))
    assert (code, said["reason"]) == (43, Reason.STORAGE_REFUSED)
    assert "checkpoint.resumeFrom: " in said["message"]
    assert "no checkpoint is there or below" in said["message"]
    assert not (tmp_path / "report.json").exists()
