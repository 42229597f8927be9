"""Builders for tests, demo and bench: a tiny model with its tokenizer and rows, and the file of an attempt on them. No hub, no network."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.inspection import DatasetFacts, InputFile, InspectionReport, ModelFacts, TokenHistogram
from finetune_operator.api.plan import AttemptFile, MemoryEstimate, MemoryRange, Phase, Plan, PodResources
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.storage import open_storage

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
NAMES: Final = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")
THINGS: Final = ("apples", "books", "coins", "pens")


def arithmetic_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of messages: small word problems with their answers."""
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    rows = []
    for _ in range(count):
        name, thing = source.choice(NAMES), source.choice(THINGS)
        have, more = source.randint(1, 20), source.randint(1, 20)
        question = f"{name} has {have} {thing} and gets {more} more. How many {thing} does {name} have?"
        answer = f"{have} + {more} = {have + more}. The answer is {have + more}."
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return rows


def answer_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the same word problems in two columns, question and answer."""
    turns = [row["messages"] for row in arithmetic_rows(count, seed)]
    return [{"question": f"{question['content']} ", "answer": answer["content"]} for question, answer in turns]


def preference_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of pairs: the same word problems, answered rightly and wrongly."""
    rows = []
    for question, answer in (row["messages"] for row in arithmetic_rows(count, seed)):
        wrong = {"role": "assistant", "content": "I do not know."}
        rows.append({"prompt": [question], "chosen": [answer], "rejected": [wrong]})
    return rows


def judged_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of single answers, right and wrong ones by turns, and whether they are wanted."""
    rows = []
    for index, pair in enumerate(preference_rows(count, seed)):
        wanted = index % 2 == 0
        rows.append({"prompt": pair["prompt"], "completion": pair["chosen" if wanted else "rejected"], "label": wanted})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tiny_model(
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    vocabulary: int = 512,
    hidden: int = 64,
    layers: int = 2,
    ties: bool = False,
    experts: int = 0,
) -> Path:
    """Write a Llama (with experts, a Mixtral) of random weights (seed 0) and a byte-level tokenizer that was trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator((message["content"] for row in rows for message in row["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=SPECIAL_TOKENS[2],
        pad_token=SPECIAL_TOKENS[3],
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    kind, more = (MixtralConfig, {"num_local_experts": experts}) if experts else (LlamaConfig, {})
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=ties,
        **more,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def inspection_of(model: Path, data: Path, *, rows: int) -> InspectionReport:
    """Return what an inspection records of these inputs, as far as the trainer reads it."""

    def files(folder: Path, names: list[str]) -> tuple[InputFile, ...]:
        storage = open_storage(f"file://{folder}")
        found = [storage.head(name) for name in names]
        return tuple(InputFile(uri=file.uri, size=file.size, etag=file.etag) for file in found)

    lengths = TokenHistogram(
        edges=(0, 128), counts=(rows,), minimum=1, maximum=127, mean=64.0, median=64, percentile_99=127, total=64 * rows
    )
    return InspectionReport(
        key="0" * 16,
        job="default/tiny",
        finished_at="2026-01-01T00:00:00Z",
        seconds=0.1,
        model=ModelFacts(
            uri=f"file://{model}",
            revision="",
            architecture="LlamaForCausalLM",
            config=json.loads((model / "config.json").read_text()),
            parameters=0,
            weight_bytes=0,
            dtypes={},
            files=files(model, ["config.json", "model.safetensors", "tokenizer.json"]),
            has_chat_template=True,
        ),
        dataset=DatasetFacts(
            uri=f"file://{data}", format="messages", files=files(data.parent, [data.name]), rows=rows, tokens=lengths
        ),
    )


def tiny_plan(
    *,
    strategy: Strategy = Strategy.SINGLE,
    processes: int = 1,
    pods: int = 1,
    micro_batch_size: int = 4,
    gradient_accumulation: int = 1,
    total_steps: int = 8,
    rows: int = 64,
    max_length: int = 128,
    gradient_checkpointing: Checkpointing = Checkpointing.NONE,
    offload: Offload = Offload.NONE,
    packed: bool = False,
    precomputed_reference: bool = False,
    staging_bytes: int = 2**30,
) -> Plan:
    """Return a plan for CPU processes."""
    batch = micro_batch_size * gradient_accumulation * processes
    return Plan(
        accelerator="cpu",
        processes=processes,
        pods=pods,
        processes_per_pod=processes // pods,
        strategy=strategy,
        micro_batch_size=micro_batch_size,
        gradient_accumulation=gradient_accumulation,
        global_batch_size=batch,
        gradient_checkpointing=gradient_checkpointing,
        offload=offload,
        max_length=max_length,
        rows=rows,
        packed=packed,
        precomputed_reference=precomputed_reference,
        steps_per_epoch=-(-rows // batch),
        total_steps=total_steps,
        trainable_parameters=0,
        total_parameters=0,
        memory=MemoryEstimate(
            expected_bytes=0,
            upper_bytes=0,
            allocated=MemoryRange(expected_bytes=0, upper_bytes=0),
            reserved=MemoryRange(expected_bytes=0, upper_bytes=0),
            phases=(),
            peak_phase=Phase.BACKWARD,
        ),
        resources=PodResources(
            cpu_millicores=1000,
            memory_bytes=0,
            shared_memory_bytes=0,
            ephemeral_storage_bytes=0,
            staging_bytes=staging_bytes,
        ),
    )


def tiny_attempt(
    model: Path,
    data: Path,
    output: Path,
    /,
    *,
    plan: Plan | None = None,
    attempt: int = 1,
    uid: str = "0f1e2d3c-0000-4000-8000-000000000000",
    rendezvous_port: int = 29500,
    metrics_port: int = 9400,
    **spec: Any,
) -> AttemptFile:
    """Return the file of an attempt on a tiny model; `spec` replaces or adds parts of the job's spec by their names in YAML."""
    plan = plan or tiny_plan()
    whole: dict[str, Any] = {
        "model": {"uri": f"file://{model}"},
        "dataset": {"uri": f"file://{data}"},
        "output": {"uri": f"file://{output}"},
        "resources": {"accelerator": "cpu", "processes": plan.processes},
        "checkpoint": {"every": "1000steps"},
    }
    for name, value in spec.items():
        whole[name] = {**whole.get(name, {}), **value} if isinstance(value, dict) else value
    return AttemptFile(
        namespace="default",
        name="tiny",
        uid=uid,
        attempt=attempt,
        spec=FineTuneJobSpec.model_validate(whole),
        inspection=inspection_of(model, data, rows=plan.rows),
        plan=plan,
        checkpoint_uri=f"file://{output}/checkpoints/tiny-{uid[:8]}",
        rendezvous_port=rendezvous_port,
        metrics_port=metrics_port,
    )
