"""How fast inspect reads rows, and in how much memory: prints JSON.

    python bench/inspection.py [--rows 20000]

`schemaRowsPerSecond` is reading and checking alone, `rowsPerSecond` the whole: template, tokens, duplicates. Rows have about 1 KB.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS
from finetune_operator.api.spec import Dataset
from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.file_formats.lines import Line, read_lines
from finetune_trainer.inspect.survey import Limits, survey_rows
from finetune_trainer.rendering import read_rendered_rows
from finetune_trainer.rows import read_rows
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import TokenizerFiles

TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
SFT = OBJECTIVE_LAYOUTS["sft"]
SYLLABLES = ("ba", "co", "di", "fu", "ge", "ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "we", "zo")


def texts(count: int, characters: int) -> Iterator[str]:
    """Yield texts of made-up words, of which few are frequent and many rare, as in a language."""
    source = random.Random(0)
    words = ["".join(source.choices(SYLLABLES, k=source.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    for _ in range(count):
        yield " ".join(source.choices(words, weights, k=characters // 6))


def make_tokenizer() -> TokenizerFiles:
    """Return a byte-level BPE tokenizer with a vocabulary of 16,000."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=16_000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(5000, 1000), trainer)
    tokens = {"eos_token": "<|im_end|>"}
    return TokenizerFiles(tokenizer, tokens, ChatTemplate(TEMPLATE, tokens), ())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure inspection.")
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    dataset = Dataset(uri="file:///unused")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        with path.open("w") as file:
            for text in texts(options.rows, 900):
                turns = [{"role": "user", "content": text[:500]}, {"role": "assistant", "content": text[500:]}]
                file.write(json.dumps({"messages": turns}) + "\n")
        storage = open_storage(f"file://{folder}")

        def lines() -> Iterator[Line]:
            return read_lines(path.name, storage.stream(path.name))

        started = time.perf_counter()
        _, rows = read_rows(lines(), dataset, SFT, has_chat_template=True)
        usable = sum(row.value is not None for row in rows)
        schema_seconds = time.perf_counter() - started
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, processor = time.perf_counter(), time.process_time()
        _, rendered = read_rendered_rows(lines(), dataset, SFT, tokenizer)
        survey = survey_rows(rendered, tokenizer, Limits(2048, "all"))
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        result = {
            "rows": usable,
            "bytesPerRow": path.stat().st_size // options.rows,
            "tokensPerRow": survey.lengths and sum(k * v for k, v in survey.lengths.items()) // survey.rows,
            "schemaRowsPerSecond": round(usable / schema_seconds),
            "rowsPerSecond": round(survey.rows / seconds),
            "processorSecondsPer1000Rows": round(1000 * processor / survey.rows, 3),
            "peakMemoryMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "peakMemoryMiBBefore": before // 1024,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
