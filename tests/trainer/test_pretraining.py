"""Raw text: no token of a document is lost, the inspection counts what is trained, and packed pieces are as good as pieces alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.packing import packed_rows
from finetune_operator.api.run_events import StepEvent
from finetune_trainer.dataset import encoded_rows
from finetune_trainer.dataset_files import find_files
from finetune_trainer.encoding import pieces
from finetune_trainer.inspect.survey import Limits, survey_rows
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.storage import open_storage
from finetune_trainer.testing import THINGS, arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import RankServer
from finetune_trainer.tokenizer_files import read_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "pretrain.yaml"


def stories() -> list[dict[str, Any]]:
    """Documents of 1 to 12 sentences, shorter and longer than a piece."""
    sentences = [row["messages"][1]["content"] for row in arithmetic_rows(60)]
    return [{"story": " ".join(sentences[number : number + 1 + 3 * (number % 5)])} for number in range(48)]


@given(st.integers(2, 200), st.integers(2, 30))
def test_every_token_but_the_first_is_predicted_once(length: int, max_length: int) -> None:
    cuts = pieces(length, max_length)
    predicted = [position for first, last in cuts for position in range(first + 1, last)]
    assert predicted == list(range(1, length))
    assert all(2 <= last - first <= max_length for first, last in cuts)


def test_the_example_learns_packed_pieces_of_whole_documents(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    spec = yaml.safe_load(EXAMPLE.read_text())["spec"]
    data = write_rows(tmp_path / "stories.jsonl", stories())
    parts = {name: spec[name] for name in ("objective", "tuning", "training")}
    columns = {"columns": spec["dataset"]["columns"]}
    length = spec["training"]["maxLength"]
    plan = tiny_plan(micro_batch_size=8, total_steps=20, max_length=length, packed=True)
    attempt = tiny_attempt(tiny_model, data, tmp_path / "out", plan=plan, metrics_port=0, dataset=columns, **parts)
    tokenizer = read_tokenizer(open_storage(f"file://{tiny_model}"))
    files = find_files(f"file://{data}")
    (dataset,) = attempt.spec.all_datasets
    survey = survey_rows(
        read_rendered_rows(files.lines(), dataset, attempt.spec.layouts, tokenizer)[1],
        tokenizer,
        Limits(length, "completions"),
    )

    trained = [made.row["input_ids"] for made in encoded_rows(attempt, dataset, dataset.uri)]
    assert Counter(map(len, trained)) == survey.lengths
    assert survey.used == len(stories()) < survey.rows == len(trained)
    assert survey.truncated == 0
    end = tokenizer.tokenizer.token_to_id("<|im_end|>")
    assert sum(tokens[-1] == end for tokens in trained) == len(stories())

    result = ranks.run(attempt, tmp_path / "run")

    assert result.statuses == (0,), result.log()
    steps = [event for event in result.events if isinstance(event, StepEvent)]
    assert steps[-1].loss < 0.6 * steps[0].loss
    made = packed_rows(survey.lengths, length)
    assert f"packed into {made.sequences} sequences" in result.log()


def test_logits_of_packed_pieces_are_those_of_pieces_alone(ranks: RankServer, tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "stories.jsonl", stories())
    plan = tiny_plan(max_length=64, packed=True)
    columns = {"columns": {"text": "story"}}
    attempt = tiny_attempt(tiny_model, data, tmp_path / "out", plan=plan, dataset=columns, objective="pretrain")
    difference, pairs = ranks.call(
        "finetune_trainer.testing_packing:largest_difference_of_packed_logits",
        attempt=attempt.model_dump_json(by_alias=True),
        model=str(tiny_model),
        folder=str(tmp_path / "encoded"),
    )
    assert pairs > len(THINGS)
    assert difference < 1e-5
