"""Builders for tests of objectives of encoders: separable rows, tiny BERTs and RoBERTas with tokenizers of their kind, and attempts on them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.plan import AttemptFile, Plan
from finetune_trainer.inspect.labels import count_labels, in_order
from finetune_trainer.rows import LabelledText, LabelledWords
from finetune_trainer.testing import tiny_attempt

_SUBJECTS: Final = ("the film", "this book", "our dinner", "the concert", "her speech")
_FEELINGS: Final = {
    "praise": ("wonderful", "brilliant", "charming", "superb"),
    "blame": ("dreadful", "boring", "clumsy", "awful"),
    "doubt": ("uncertain", "debatable", "unclear", "questionable"),
}
_PEOPLE: Final = ("Ada", "Ben", "Cleo", "Doménica", "O'Hara")
_PLACES: Final = ("Oslo", "Zürich", "Lima", "St.-Denis")


def text_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return texts of three classes that one word tells apart."""
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    rows = []
    for _ in range(count):
        label = source.choice(sorted(_FEELINGS))
        rows.append({"text": f"{source.choice(_SUBJECTS)} was {source.choice(_FEELINGS[label])}", "label": label})
    return rows


def word_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return sentences whose names of people and places have classes of their own."""
    source = random.Random(seed)  # noqa: S311 - examples, not secrets
    rows = []
    for _ in range(count):
        words = [source.choice(_PEOPLE), "travels", "from", source.choice(_PLACES), "to", source.choice(_PLACES), "."]
        rows.append({"tokens": words, "tags": ["B-PER", "O", "O", "B-LOC", "O", "B-LOC", "O"]})
    return rows


def write_tiny_encoder(folder: Path, texts: list[str], *, kind: str = "bert", vocabulary: int = 400) -> Path:
    """Write a model without a head of random weights (seed 0) and a tokenizer that was trained on the texts.

    `kind`: bert or distilbert (WordPiece, lower case), roberta, modernbert or llama (byte-level BPE). All but distilbert drop out by their defaults.
    """
    import torch
    import transformers

    tokenizer = make_tokenizer(kind, texts, vocabulary)
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
    }
    if kind == "distilbert":
        common |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
        common |= {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    if kind == "roberta":
        common |= {"type_vocab_size": 1, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    if kind == "llama":
        common |= {"num_key_value_heads": 2}
    if kind == "modernbert":
        special = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        common |= {**special, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **common)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tiny_entailment(folder: Path, texts: list[str], premises: list[str], hypotheses: list[str]) -> list[str]:
    """Write a BERT of random weights (seed 1) that tells entailment, and return which class transformers' own pipeline gives each pair."""
    import torch
    import transformers

    write_tiny_encoder(folder, texts)
    torch.manual_seed(1)
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, id2label=names, num_labels=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(premises, hypotheses, padding=True, return_tensors="pt")).logits
        model.classifier.bias -= logits.mean(dim=0)  # or one class would be the likeliest of every pair
    model.save_pretrained(folder)
    classify = transformers.pipeline("text-classification", str(folder), device="cpu")
    pairs = [{"text": first, "text_pair": second} for first, second in zip(premises, hypotheses, strict=True)]
    return [str(each["label"]) for each in classify(pairs)]


def make_tokenizer(kind: str, texts: list[str], vocabulary: int = 400) -> Any:
    """Return a tokenizer as models of the kind have, trained on the texts."""
    return (_word_pieces if kind in ("bert", "distilbert") else _byte_pairs)(texts, vocabulary)


def _word_pieces(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=vocabulary, min_frequency=1, show_progress=False)
    specials = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    words._tokenizer.post_processor = _post_processor("[CLS]", "[SEP]", words._tokenizer)
    return PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, model_max_length=128, **specials)


def _byte_pairs(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    words.post_processor = _post_processor("<s>", "</s>", words)
    names = {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "eos_token": "</s>",
        "bos_token": "<s>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=128, **names)


def _post_processor(begin: str, end: str, words: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, words.token_to_id(begin)), (end, words.token_to_id(end))],
    )


def labels_of_rows(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the classes of the rows as an inspection counts them."""
    counts: Counter[str] = Counter()
    for row in rows:
        if "tags" in row:
            count_labels(counts, LabelledWords(tuple(row["tokens"]), tuple(row["tags"])))
        elif "label" in row:
            count_labels(counts, LabelledText(row["text"], None, row["label"]))
    return in_order(counts)


def encoder_attempt(
    model: Path,
    data: Path,
    rows: list[dict[str, Any]],
    output: Path,
    *,
    objective: str,
    plan: Plan,
    learning_rate: float = 5e-3,
    **spec: Any,
) -> AttemptFile:
    """Return the file of an attempt on a tiny encoder; `rows` are those of the file `data`, full training in float32 unless `spec` says more."""
    attempt = tiny_attempt(
        model,
        data,
        output,
        plan=plan,
        metrics_port=0,
        objective=objective,
        tuning=spec.pop("tuning", {"method": "full"}),
        training={"precision": "fp32", **spec.pop("training", {}), "learningRate": learning_rate},
        **spec,
    )
    facts = attempt.inspection
    dataset = facts.dataset.model_copy(update={"format": objective, "labels": labels_of_rows(rows)})
    return attempt.model_copy(update={"inspection": facts.model_copy(update={"dataset": dataset})})


def plain_losses(plan: Path, model: Path) -> list[float]:
    """Return the losses of transformers' own Trainer by the settings of an attempt: its tokenizer, its loss; only the order of rows is ours."""
    import json

    import transformers
    from datasets import Dataset

    from finetune_trainer.arguments import training_arguments
    from finetune_trainer.attempt import read_attempt
    from finetune_trainer.epoch_order import EpochOrder

    attempt = read_attempt(plan)
    numbers = {name: number for number, name in enumerate(attempt.inspection.dataset.labels)}
    rows = [json.loads(line) for line in Path(attempt.spec.data_uri.removeprefix("file://")).read_text().splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    encoded = [
        {
            "input_ids": tokenizer(row["text"], truncation=True, max_length=attempt.plan.max_length)["input_ids"],
            "labels": numbers[row["label"]],
        }
        for row in rows
    ]
    transformers.set_seed(attempt.spec.training.seed)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(numbers))

    class InOurOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return EpochOrder(len(rows), attempt.plan.global_batch_size, attempt.spec.training.seed)

    trainer = InOurOrder(
        model=network,
        args=transformers.TrainingArguments(**training_arguments(attempt, plan.parent / "plain")),
        train_dataset=Dataset.from_list(encoded),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def published_labels(folder: Path, objective: str, texts: list[str]) -> list[Any]:
    """Return what transformers' pipeline makes of the texts with a published model: the class of each, or the words with a class."""
    import transformers

    pipe = transformers.pipeline(_PIPELINES[objective], str(folder))
    if objective == "classification":
        return [found["label"] for found in pipe(texts)]
    return [[(item["word"], item["entity"]) for item in found if item["entity"] != "O"] for found in pipe(texts)]


_PIPELINES: Final = {"classification": "text-classification", "token-classification": "token-classification"}
