"""Folders of this machine stand for ConfigMaps in `finetune run`, and what the inspection process finds in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.inspect.conftest import write_model

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.local_config_maps import changed, folders_of, known_files, linked
from finetune_operator.cli.manifest_file import UnreadableManifest
from finetune_operator.cli.trainer_process import TrainerProcess

SCORE = "def score(completions, **others):\n    return [1.0] * len(completions)\n"


def spec_of(folder: Path = Path("/nowhere"), config_map: str | None = "mine") -> FineTuneJobSpec:
    reward: dict[str, Any] = {"function": "rated:score"}
    if config_map is not None:
        reward["configMap"] = config_map
    return FineTuneJobSpec.model_validate(
        {
            "objective": "grpo",
            "model": {"uri": f"file://{folder / 'model'}"},
            "dataset": {"uri": f"file://{folder / 'rows.jsonl'}"},
            "output": {"uri": f"file://{folder / 'output'}"},
            "training": {"globalBatchSize": 8, "maxLength": 512, "grpo": {"rewards": [reward]}},
        }
    )


def test_a_folder_is_given_for_each_config_map_and_for_no_other(tmp_path: Path) -> None:
    assert folders_of([f"mine={tmp_path}"], spec_of()) == {"mine": tmp_path}
    assert folders_of([], spec_of(config_map=None)) == {}
    with pytest.raises(UnreadableManifest, match=r"--config-map mine=FOLDER"):
        folders_of([], spec_of())
    with pytest.raises(UnreadableManifest, match="names no ConfigMap other"):
        folders_of([f"other={tmp_path}"], spec_of())
    for wrong in ("mine", f"mine={tmp_path}/absent"):
        with pytest.raises(UnreadableManifest, match="write NAME=FOLDER"):
            folders_of([wrong], spec_of())


def test_the_inspection_process_reads_the_folder_and_a_later_change_is_told(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1 + 1 = ", "answer": "2"}) + "\n")
    (tmp_path / "code").mkdir()
    request = InspectionRequest(
        namespace="team", name="bot", uid="uid-1", spec=spec_of(tmp_path), key="0123456789abcdef"
    )
    (tmp_path / "request.json").write_text(request.model_dump_json(by_alias=True))
    report = tmp_path / "report.json"
    trainer = TrainerProcess(tmp_path, config_maps=linked({"mine": tmp_path / "code"}, tmp_path / "config-maps"))

    def inspect() -> int:
        return trainer.run(
            "inspect", "inspect", "--job", str(tmp_path / "request.json"), "--output", str(report)
        ).exit_code

    assert inspect() == ExitCode.NOT_FOUND
    (tmp_path / "code" / "rated.py").write_text(SCORE)
    assert inspect() == ExitCode.OK
    before = known_files(report)
    found = InspectionReport.model_validate_json(report.read_text()).reward_files
    assert [file.uri for file in found] == ["configmap:mine/rated.py"]
    assert changed(before, found) == []
    other = found[0].model_copy(update={"etag": "another"})
    assert changed(before, [other]) == [
        "configmap:mine/rated.py is not what it was at the last start; steps from here on are rewarded by it"
    ]
    assert known_files(tmp_path / "absent.json") == {}
