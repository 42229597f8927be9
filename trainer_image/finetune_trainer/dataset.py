"""The training set: rows read and encoded once per pod into an Arrow file that every rank maps into memory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from finetune_operator.api.datasets import WeightedDataset
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.dataset_files import find_files
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import model_source, only_once
from finetune_trainer.objectives import recipe_of
from finetune_trainer.objectives.recipe import EncodedRow
from finetune_trainer.packing import write_packed
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.row_decisions import decisions_of, key_of
from finetune_trainer.row_filters import RowFilter, longest
from finetune_trainer.row_selection import is_evaluated, times_trained
from finetune_trainer.rows import RowValue
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import read_tokenizer

ROWS_PER_BATCH: Final = 1000
ROW: Final = "row"
"""The column with the number of an encoded row in its file, of recipes whose schema has one."""


class EncodedFiles(NamedTuple):
    """Arrow files on local disk."""

    training: Path
    """Of the encoded rows, or of the sequences they are packed into."""
    evaluation: Path | None
    """Of the rows that are evaluated, never packed."""


def encode_dataset(attempt: AttemptFile, folder: Path) -> EncodedFiles:
    """Return the files of the encoded rows; the first rank of the pod makes them, the others wait."""
    folder = folder / rows_digest(attempt)
    plan = attempt.plan
    rows, packed, evaluation = folder / "rows.arrow", folder / "packed.arrow", folder / "evaluation.arrow"
    with only_once(folder) as needed:
        if needed:
            _write_rows(attempt, rows, evaluation)
            if plan.packed:
                count = write_packed(rows, packed, capacity=plan.max_length, seed=attempt.spec.training.seed)
                print(f"rows are packed into {count} sequences, {plan.sequences} were planned", flush=True)
                rows.unlink()
    return EncodedFiles(packed if plan.packed else rows, evaluation if attempt.spec.evaluates else None)


def rows_digest(attempt: AttemptFile) -> str:
    """Return what the encoded rows depend on: a local run keeps its work directory from one attempt to the next."""
    facts = attempt.inspection
    evaluated = facts.dataset.evaluation.files if facts.dataset.evaluation else ()
    spec = attempt.spec
    data = [spec.dataset] if spec.dataset else spec.all_datasets
    parts = (
        attempt.spec.objective,
        *(file.model_dump_json() for file in (*facts.model.files, *facts.dataset.files, *evaluated)),
        *(each.model_dump_json() for each in data),
        model_source(attempt).chat_template or "",
        attempt.spec.training.loss_on,
        attempt.spec.training.truncation,
        str(attempt.plan.max_length),
        f"packed with seed {spec.training.seed}" if attempt.plan.packed else "",
        *([str(facts.decisions.etag)] if facts.decisions else []),
        *([f"weighted with seed {spec.training.seed}"] if spec.datasets else []),
        attempt.spec.training.online.model_dump_json() if attempt.spec.training.online else "",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_dataset(path: Path) -> Any:
    """Return the encoded rows as a `datasets.Dataset`, mapped into memory."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


class _ArrowFile:
    """Encoded rows on their way into a file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._held: list[EncodedRow] = []
        self.rows = 0

    def add(self, row: EncodedRow) -> None:
        # Rows that are found again by number are numbered here, where it is known which of them stay.
        self._held.append({**row, ROW: self.rows} if ROW in self._schema.names else row)
        self.rows += 1
        if len(self._held) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()
        self._sink.close()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._held, self._schema))
        self._held = []


def _write_rows(attempt: AttemptFile, training: Path, evaluation: Path) -> None:
    """Write the rows that are trained and those that are evaluated."""
    schema, spec = recipe_of(attempt.spec.objective).schema, attempt.spec
    with contextlib.ExitStack() as stack:
        files = [_ArrowFile(training, schema)]
        if spec.evaluates:
            files.append(_ArrowFile(evaluation, schema))
        for file in files:
            stack.callback(file.close)
        for dataset in spec.all_datasets:
            for encoded in encoded_rows(attempt, dataset, dataset.uri):
                for _ in range(1 if encoded.is_evaluated else encoded.times):
                    files[encoded.is_evaluated].add(encoded.row)
            if dataset.evaluation is not None:
                for encoded in encoded_rows(attempt, dataset, dataset.evaluation.uri):
                    files[1].add(encoded.row)
        own = ", ".join(each.evaluation.uri for each in spec.all_datasets if each.evaluation)
        for file, uri in zip(files, (spec.data_uri, own or spec.data_uri), strict=False):
            if file.rows == 0:
                raise TrainerFailure(
                    ExitCode.BAD_DATA,
                    f"no row of {uri} has anything to learn within training.maxLength {attempt.plan.max_length}; raise maxLength",
                )


class EncodedOfRow(NamedTuple):
    """What a row became."""

    row: EncodedRow
    is_evaluated: bool
    value: RowValue
    times: int = 1
    """How often it is learned in an epoch, by the weight of its data set, if it is not evaluated."""


def encoded_rows(attempt: AttemptFile, dataset: WeightedDataset, uri: str) -> Iterator[EncodedOfRow]:
    """Yield the rows at `uri`, of the data set or those that it is evaluated on, that have something to learn, in order.

    Rows without a counted token after the cut are left out. More unusable rows than `filters.maxDropped` allows are a TrainerFailure.
    """
    source = model_source(attempt)
    tokenizer = read_tokenizer(open_storage(source.uri, revision=source.revision), source.chat_template)
    encode = recipe_of(attempt.spec.objective).encoder(attempt, tokenizer)
    lines, spec = find_files(uri).lines(), attempt.spec
    _, rows = read_rendered_rows(lines, dataset, spec.layouts, tokenizer, together=spec.reads_together)
    wanted = RowFilter(dataset.filters)
    own = dataset.evaluation is not None and uri == dataset.evaluation.uri
    decided = decisions_of(attempt.inspection.decisions, key_of(spec.all_datasets.index(dataset), evaluation=own))
    left_out = frozenset(decided.left_out if decided else ())
    read = dropped = 0
    first = ""
    for number, (row, texts) in enumerate(rows):
        read += 1
        if row.value is None:
            dropped += 1
            first = first or f"{row.file} line {row.line}: {row.problem}"
            continue
        made = encode(row.value, texts)
        # In this order, as the inspection does it: a row of which nothing is learned is no earlier row to be equal to.
        if not made or wanted.reason(row.value, functools.partial(longest, tokenizer.tokenizer, texts)):
            continue
        if number in left_out:
            continue
        evaluated = is_evaluated(row.value, dataset.split)
        times = times_trained(row.value, dataset.weight, spec.training.seed)
        for encoded in made:
            yield EncodedOfRow(encoded, evaluated, row.value, times)
    if decided is not None and decided.rows != read:
        raise TrainerFailure(
            ExitCode.INPUTS_CHANGED,
            f"{uri} has {read} rows, and it was decided of {decided.rows} which ones are learned from",
        )
    allowed = dataset.filters.max_dropped
    if dropped > allowed * read:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{dropped} of {read} rows of {uri} are unusable, more than dataset.filters.maxDropped {allowed} allows; the first is {first}",
        )
