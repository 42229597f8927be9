"""Packing for tests: TRL's own, which ours is compared with, and what a model makes of packed rows; for `RankServer.call`."""

from __future__ import annotations

from pathlib import Path


def sequences_of_trl(lengths: list[int], capacity: int) -> int:
    """Return how many sequences TRL's best-fit decreasing makes of rows of these lengths."""
    from datasets import Dataset
    from trl import pack_dataset

    rows = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    return len(pack_dataset(rows, capacity, "bfd"))


def largest_difference_of_packed_logits(attempt: str, model: str, folder: str) -> tuple[float, int]:
    """Encode an attempt's data set and return by how much a logit of a packed row differs from its row's alone at most, and of how many rows.

    Batches come from the trainer's collator, several rows in a sequence; each row then goes through the model by itself.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from finetune_operator.api.plan import AttemptFile
    from finetune_trainer.dataset import encode_dataset, load_dataset
    from finetune_trainer.packed_batches import PackedCollator

    file = AttemptFile.model_validate_json(attempt)
    sequences = load_dataset(encode_dataset(file, Path(folder)).training)
    batch = PackedCollator(DataCollatorForLanguageModeling(pad_token_id=0))([sequences[i] for i in range(8)])
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    differences = []
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        packed = network(**inputs, use_cache=False).logits
        for index in range(8):
            start = 0
            for length in sequences[index]["seq_lengths"]:
                row = batch["input_ids"][index, start : start + length]
                alone = network(input_ids=row[None]).logits[0]
                differences.append(float((packed[index, start : start + length] - alone).abs().max()))
                start += length
    return max(differences), len(differences)
