"""What tests of objective distill compare with: the same steps with whole logits and TRL's own loss, and outputs of many families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.inspect.teacher import teacher_facts
from finetune_trainer.storage import open_storage
from finetune_trainer.testing import tiny_attempt
from finetune_trainer.tokenizer_files import read_tokenizer

FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4},
}


def distill_attempt(
    model: Path, data: Path, output: Path, /, *, teacher: Path, distill: dict[str, Any] | None = None, **more: Any
) -> AttemptFile:
    """Return the file of an attempt whose inspection has seen the teacher."""
    block = {"teacher": {"uri": f"file://{teacher}"}, **(distill or {})}
    training = {"learningRate": 1e-2, "precision": "fp32", **more.pop("training", {}), "distill": block}
    attempt = tiny_attempt(model, data, output, metrics_port=0, objective="distill", training=training, **more)
    facts = teacher_facts(attempt.spec, read_tokenizer(open_storage(f"file://{model}")))
    inspection = attempt.inspection.model_copy(update={"teacher": facts})
    return attempt.model_copy(update={"inspection": inspection})


def plain_losses(plan: Path, model: Path, teacher: Path) -> list[list[float]]:
    """Return loss and divergence of each step by transformers' models with whole logits, TRL's GKD loss and torch's AdamW; for `RankServer.call`.

    Rows come encoded and in the order of ours.
    """
    import torch
    from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
    from trl.experimental.gkd import GKDTrainer

    from finetune_trainer.attempt import read_attempt
    from finetune_trainer.dataset import encode_dataset, load_dataset
    from finetune_trainer.epoch_order import EpochOrder

    attempt = read_attempt(plan)
    settings, size = attempt.spec.training.distill, attempt.plan.global_batch_size
    if settings is None:
        raise AssertionError("the attempt distils")
    rows = load_dataset(encode_dataset(attempt, plan.parent / "plain")[0])
    order = list(EpochOrder(len(rows), size, attempt.spec.training.seed))
    student, wise = (AutoModelForCausalLM.from_pretrained(each, dtype="float32").eval() for each in (model, teacher))
    optimizer = torch.optim.AdamW(student.parameters(), lr=attempt.spec.learning_rate, weight_decay=0.0)
    steps = attempt.plan.total_steps
    schedule = get_cosine_schedule_with_warmup(optimizer, -(-steps * 3 // 100), steps)
    found = []
    for first in range(0, steps * size, size):
        batch = [rows[row] for row in order[first : first + size]]
        tokens, labels = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row[name]) for row in batch], batch_first=True, padding_value=padding
            )
            for name, padding in (("input_ids", 0), ("labels", -100))
        )
        seen = torch.arange(tokens.shape[1]) < torch.tensor([len(row["input_ids"]) for row in batch])[:, None]
        with torch.no_grad():
            wanted = wise(input_ids=tokens, attention_mask=seen).logits[:, :-1]
        logits = student(input_ids=tokens, attention_mask=seen).logits[:, :-1]
        answers = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:])
        divergence = GKDTrainer.generalized_jsd_loss(
            logits, wanted, labels=labels[:, 1:], beta=0.0, temperature=settings.temperature
        )
        share = settings.cross_entropy_weight
        loss = share * answers + (1 - share) * settings.temperature**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        found.append([float(loss), float(divergence)])
    return found


def outputs_of_families() -> dict[str, str]:
    """Return for each family what `check_output` says of a tiny model, and of one that caps its logits unseen; for `RankServer.call`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from finetune_trainer.failures import TrainerFailure
    from finetune_trainer.objectives.distillation_trainer import check_output

    def said(model: Any) -> str:
        try:
            check_output("training.distill.teacher", model)
        except TrainerFailure as failure:
            return str(failure)
        return "equal"

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    found: dict[str, str] = {}
    for name, more in FAMILIES.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **({} if name == "gpt2" else sizes), **more, initializer_range=0.5)
        found[name] = said(AutoModelForCausalLM.from_config(config).eval())
    llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, initializer_range=0.5)).eval()
    forward = llama.forward

    def halved(*arguments: Any, **others: Any) -> Any:
        output = forward(*arguments, **others)
        output.logits = output.logits / 2
        return output

    llama.forward = halved
    return {**found, "unknown": said(llama)}


def with_more_words(folder: Path, model: Path, words: int) -> Path:
    """Copy a model with so many words that its tokenizer does not have, as vocabularies are padded for speed; for `RankServer.call`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    larger = AutoModelForCausalLM.from_pretrained(model)
    larger.resize_token_embeddings(larger.config.vocab_size + words)
    larger.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if config["vocab_size"] <= words:
        raise AssertionError("the vocabulary has grown")
    return folder
