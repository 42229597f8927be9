"""The same training as a script with the libraries alone, for tests that compare: no code of ours but the model and the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

SETTINGS: Final[dict[str, Any]] = {
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "seed": 42,
    "data_seed": 42,
    "dataloader_pin_memory": False,
    "gradient_checkpointing": False,
}


def plain_dpo(model: Path, data: Path, target: Path, *, steps: int, batch: int, rate: float, rank: int) -> Any:
    """Return the losses and reward margins of TRL's DPOTrainer with LoRA, whose adapter is saved to `target`; for `RankServer.call`."""
    from trl import DPOConfig, DPOTrainer

    sizes = {"max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": rate}
    arguments = DPOConfig(output_dir=str(target), max_length=128, **sizes, **SETTINGS)
    trainer = _trained(DPOTrainer, arguments, model, data, rank)
    trainer.model.save_pretrained(target)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: [entry[name] for entry in history] for name in ("loss", "rewards/margins")}


def plain_orpo(model: Path, data: Path, target: Path, *, steps: int, batch: int, rate: float, rank: int) -> Any:
    """Return the losses of TRL's experimental ORPOTrainer with LoRA; for `RankServer.call`."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    sizes = {"max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": rate}
    arguments = ORPOConfig(output_dir=str(target), max_length=128, **sizes, **SETTINGS)
    trainer = _trained(ORPOTrainer, arguments, model, data, rank)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _trained(kind: Any, arguments: Any, model: Path, data: Path, rank: int) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=arguments,
        train_dataset=Dataset.from_list([json.loads(line) for line in data.read_text().splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return trainer


def preferred_share(model: Path, data: Path) -> float:
    """Return the share of pairs whose chosen answer a published reward model gives the higher reward; for `RankServer.call`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judge, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(model).eval(),
        AutoTokenizer.from_pretrained(model),
    )
    rows = [json.loads(line) for line in data.read_text().splitlines()]

    def reward(row: dict[str, Any], side: str) -> float:
        text = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
        with torch.no_grad():
            return float(judge(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.squeeze())

    return sum(reward(row, "chosen") > reward(row, "rejected") for row in rows) / len(rows)
