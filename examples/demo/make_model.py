"""A tiny Llama-shaped model with random weights and a tokenizer of its own, so that the demo downloads nothing.

The tokenizer is byte-level BPE trained on the example data, its chat template marks what the assistant says; the same seed and data give
the same files.

    python examples/demo/make_model.py --data arithmetic.jsonl --output model
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""


def read_texts(data: Path) -> list[str]:
    """Return the texts that the tokenizer is trained on."""
    rows = (json.loads(line) for line in data.read_text(encoding="utf-8").splitlines())
    return [text for row in rows for text in (row["question"], row["answer"])]


def make_model(data: Path, output: Path, *, vocabulary: int, hidden: int, layers: int, seed: int) -> int:
    """Write model and tokenizer to a folder and return the number of parameters."""
    # Here, because torch and transformers take 15 s to import and --help should not.
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    bpe = Tokenizer(models.BPE())
    # Digits one by one: a model this small learns arithmetic by columns or not at all.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        read_texts(data),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def main() -> None:
    """Write the folder and say how large the model is."""
    parser = argparse.ArgumentParser(description="Make a tiny model and tokenizer from the example data.")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with question and answer")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--vocabulary", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parameters = make_model(
        options.data,
        options.output,
        vocabulary=options.vocabulary,
        hidden=options.hidden,
        layers=options.layers,
        seed=options.seed,
    )
    print(f"{options.output}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
