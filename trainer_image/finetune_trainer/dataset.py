"""The training set: rows read and encoded once per pod into an Arrow file that every rank maps into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import dataset_files, model_source, only_once
from finetune_trainer.objectives import recipe_of
from finetune_trainer.objectives.recipe import EncodedRow
from finetune_trainer.packing import write_packed
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import read_tokenizer

ROWS_PER_BATCH: Final = 1000


def encode_dataset(attempt: AttemptFile, folder: Path) -> Path:
    """Return the Arrow file of the encoded rows, or of the sequences they are packed into; the first rank of the pod makes it, the others wait."""
    folder = folder / _digest(attempt)
    plan = attempt.plan
    rows, packed = folder / "rows.arrow", folder / "packed.arrow"
    with only_once(folder) as needed:
        if needed:
            _write(rows, recipe_of(attempt.spec.objective).schema, encoded_rows(attempt))
            if plan.packed:
                count = write_packed(rows, packed, capacity=plan.max_length, seed=attempt.spec.training.seed)
                print(f"rows are packed into {count} sequences, {plan.sequences} were planned", flush=True)
                rows.unlink()
    return packed if plan.packed else rows


def _digest(attempt: AttemptFile) -> str:
    """Return what the encoded rows depend on: a local run keeps its work directory from one attempt to the next."""
    facts = attempt.inspection
    parts = (
        attempt.spec.objective,
        *(file.model_dump_json() for file in (*facts.model.files, *facts.dataset.files)),
        attempt.spec.dataset.model_dump_json(),
        attempt.spec.model.chat_template or "",
        attempt.spec.training.loss_on,
        attempt.spec.training.truncation,
        str(attempt.plan.max_length),
        f"packed with seed {attempt.spec.training.seed}" if attempt.plan.packed else "",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_dataset(path: Path) -> Any:
    """Return the encoded rows as a `datasets.Dataset`, mapped into memory."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _write(path: Path, schema: pa.Schema, rows: Iterator[EncodedRow]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def encoded_rows(attempt: AttemptFile) -> Iterator[EncodedRow]:
    """Yield the rows that have something to learn, in order.

    Rows without a counted token after the cut are left out. More unusable rows than `filters.maxDropped` allows are a TrainerFailure.
    """
    dataset, source = attempt.spec.dataset, model_source(attempt)
    tokenizer = read_tokenizer(open_storage(source.uri, revision=source.revision), source.chat_template)
    encode = recipe_of(attempt.spec.objective).encoder(attempt, tokenizer)
    _, rows = read_rendered_rows(dataset_files(attempt).lines(), dataset, attempt.spec.layouts, tokenizer)
    read = dropped = kept = 0
    first = ""
    for row, texts in rows:
        read += 1
        if row.value is None:
            dropped += 1
            first = first or f"{row.file} line {row.line}: {row.problem}"
            continue
        for encoded in encode(row.value, texts):
            kept += 1
            yield encoded
    allowed = dataset.filters.max_dropped
    if dropped > allowed * read:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{dropped} of {read} rows are unusable, more than dataset.filters.maxDropped {allowed} allows; the first is {first}",
        )
    if kept == 0:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"no row of {dataset.uri} has anything to learn within training.maxLength {attempt.plan.max_length}; raise maxLength",
        )
