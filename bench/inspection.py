"""How fast inspect reads rows, and in how much memory, by file format: prints JSON.

    python bench/inspection.py [--rows 20000] [--formats jsonl,parquet,csv]

Per format: `schemaRowsPerSecond` is reading and checking alone, `rowsPerSecond` the whole (template, tokens, duplicates; of the first
`--tokenized` rows), both also per second of processor time, which other programs on the machine do not lengthen. `memoryMiB` is by how much
reading all rows raised the process's peak. Each format is measured in a process of its own. Rows have about 1 KB.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS
from finetune_operator.api.spec import Dataset
from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.dataset_files import find_files
from finetune_trainer.inspect.survey import Limits, survey_rows
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.rows import read_rows
from finetune_trainer.tokenizer_files import TokenizerFiles

TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
SFT = OBJECTIVE_LAYOUTS["sft"]
SYLLABLES = ("ba", "co", "di", "fu", "ge", "ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "we", "zo")
FORMATS = ("jsonl", "jsonl.gz", "json", "csv", "parquet", "arrow")
ROWS_PER_WRITE = 5000


def texts(count: int, characters: int) -> Iterator[str]:
    """Yield texts of made-up words, of which few are frequent and many rare, as in a language."""
    source = random.Random(0)
    words = ["".join(source.choices(SYLLABLES, k=source.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    drawn = source.choices(words, weights, k=200_000)
    for _ in range(count):
        start = source.randrange(len(drawn) - characters)
        yield " ".join(drawn[start : start + characters // 6])


def make_tokenizer() -> str:
    """Return a byte-level BPE tokenizer with a vocabulary of 16,000, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=16_000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(5000, 1000), trainer)
    return tokenizer.to_str()


def rows_of(kind: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield conversations; of CSV, whose values are text, prompts and completions."""
    for text in texts(count, 900):
        if kind == "csv":
            yield {"prompt": text[:500], "completion": text[500:]}
        else:
            turns = [{"role": "user", "content": text[:500]}, {"role": "assistant", "content": text[500:]}]
            yield {"messages": turns}


def write(path: Path, kind: str, count: int) -> None:
    """Write a file of so many rows."""
    rows = rows_of(kind, count)
    if kind in ("parquet", "arrow"):
        _write_arrow(path, kind, rows)
        return
    with gzip.open(path, "wt", 1) if kind == "jsonl.gz" else path.open("w", newline="") as file:
        if kind == "csv":
            table = csv.DictWriter(file, ["prompt", "completion"])
            table.writeheader()
            table.writerows(rows)
            return
        separator = "[\n"
        for row in rows:
            file.write((separator if kind == "json" else "") + json.dumps(row) + ("" if kind == "json" else "\n"))
            separator = ",\n"
        file.write("]\n" if kind == "json" else "")


def _write_arrow(path: Path, kind: str, rows: Iterator[dict[str, Any]]) -> None:
    first = pa.RecordBatch.from_pylist(list(islice(rows, ROWS_PER_WRITE)))
    sink = parquet.ParquetWriter(path, first.schema) if kind == "parquet" else pa.ipc.new_file(path, first.schema)
    with sink as writer:
        batch = first
        while batch.num_rows:
            writer.write_batch(batch)
            batch = pa.RecordBatch.from_pylist(list(islice(rows, ROWS_PER_WRITE)), schema=first.schema)


def peak_mib() -> int:
    """Return the peak of this process's resident set in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(path: Path, kind: str, words: str, tokenized: int) -> dict[str, Any]:
    """Return what reading the file takes."""
    tokens = {"eos_token": "<|im_end|>"}
    tokenizer = TokenizerFiles(Tokenizer.from_str(words), tokens, ChatTemplate(TEMPLATE, tokens), ())
    files, dataset = find_files(f"file://{path}"), Dataset(uri="file:///unused")
    before = peak_mib()
    started, processor = time.perf_counter(), time.process_time()
    _, rows = read_rows(files.lines(), dataset, SFT, has_chat_template=True)
    usable = sum(row.value is not None for row in rows)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    result = {
        "format": kind,
        "rows": usable,
        "fileMiB": path.stat().st_size // 2**20,
        "schemaRowsPerSecond": round(usable / seconds),
        "schemaRowsPerProcessorSecond": round(usable / processor),
        "memoryMiB": peak_mib() - before,
    }
    started, processor = time.perf_counter(), time.process_time()
    _, rendered = read_rendered_rows(files.lines(), dataset, SFT, tokenizer)
    survey = survey_rows(islice(rendered, tokenized), tokenizer, Limits(2048, "all"))
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return result | {
        "tokensPerRow": sum(k * v for k, v in survey.lengths.items()) // survey.rows,
        "rowsPerSecond": round(survey.rows / seconds),
        "rowsPerProcessorSecond": round(survey.rows / processor),
        "peakMemoryMiB": peak_mib(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure inspection.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--tokenized", type=int, default=20_000)
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"of {', '.join(FORMATS)}")
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    context = multiprocessing.get_context("spawn")  # the tokenizer's threads do not survive a fork
    results = []
    for kind in options.formats.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"rows.{kind}")
            with context.Pool(1, maxtasksperchild=1) as process:
                process.apply(write, (path, kind, options.rows))
                results.append(process.apply(measure, (path, kind, tokenizer, options.tokenized)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
