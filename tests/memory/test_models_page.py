"""docs/reference/models.md and the code name the same models."""

import json
import re
from importlib.resources import files
from pathlib import Path

from finetune_operator.memory.architecture import text_part
from finetune_operator.memory.families import DECODERS, ENCODERS, FAMILIES, REMOTE_CODE
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_trainer.model_types import BUILT_IN_MODEL_TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "models.md").read_text()
ROW = re.compile(r"^\| `(?P<type>[^`]+)` \| (?!models )[^|]+ \| (?P<models>[^|]+) \|$", re.MULTILINE)


def test_the_page_has_one_row_per_model_type() -> None:
    assert sorted(row["type"] for row in ROW.finditer(PAGE)) == sorted(FAMILIES)


def test_the_rows_name_every_model_whose_numbers_are_shipped() -> None:
    table = json.loads(files("finetune_operator.memory").joinpath("known_architectures.json").read_text())
    shipped = {(text_part(entry["config"])["model_type"], name.split("/")[1]) for name, entry in table.items()}
    named = {(row["type"], name) for row in ROW.finditer(PAGE) for name in row["models"].split(", ") if name != "—"}
    assert named == shipped
    assert f"{len(table)} configs under {len(KNOWN_MODELS)} names" in PAGE


def test_the_trainer_runs_no_foreign_code_for_a_type_that_transformers_brings() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(DECODERS) <= BUILT_IN_MODEL_TYPES
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) | set(ENCODERS) == BUILT_IN_MODEL_TYPES
    assert BUILT_IN_MODEL_TYPES.isdisjoint(REMOTE_CODE)
