"""Ask a finished model some of the questions it was trained on: `python examples/demo/generate.py --model FOLDER --data FILE`."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Print questions with the model's answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file with the column question")
    parser.add_argument("--answers", type=int, default=2, help="how many questions are asked")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    with options.data.open() as rows:
        questions = [json.loads(row)["question"] for row in itertools.islice(rows, options.answers)]
    for question in questions:
        inputs = tokenizer(question, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"Q: {question}\nA: {answer.strip()}\n")


if __name__ == "__main__":
    main()
