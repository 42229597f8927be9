"""The model card: what the model was made from and how, in numbers and names. Pure but for one file that it reads; no content of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from huggingface_hub import ModelCardData

from finetune_operator.api.compatibility import ENCODING, LABELLING, PAIRING, Objective
from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.gguf import gguf_name
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.methods import LORA_METHODS, VIRTUAL_TOKEN_METHODS, Method
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.objectives import recipe_of
from finetune_trainer.objectives.embedding import pooling_of
from finetune_trainer.objectives.recipe import CAUSAL, ModelHead
from finetune_trainer.publish.card_lineage import Trial, lineage_rows
from finetune_trainer.publish.data_lines import data_lines
from finetune_trainer.publish.hub import CARD_KEY

VLLM_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes; an adapter of a smaller rank fits."""
PIPELINES: Final[Mapping[Objective, str]] = MappingProxyType(
    {
        Objective.SFT: "text-generation",
        Objective.PRETRAIN: "text-generation",
        Objective.DPO: "text-generation",
        Objective.ORPO: "text-generation",
        Objective.KTO: "text-generation",
        Objective.GRPO: "text-generation",
        Objective.RLOO: "text-generation",
        Objective.REWARD: "text-classification",
        Objective.CLASSIFICATION: "text-classification",
        Objective.TOKEN_CLASSIFICATION: "token-classification",
        Objective.EMBEDDING: "sentence-similarity",
        Objective.RERANKER: "text-ranking",
        Objective.DISTILL: "text-generation",
    }
)
"""The hub's word for what a model of the objective does, which transformers' pipeline() takes as well."""


@dataclass(frozen=True)
class History:
    """Loss over the last steps that the checkpoint remembers."""

    losses: tuple[tuple[int, float], ...]


def read_history(checkpoint: Path) -> History:
    """Return the losses in a checkpoint's trainer_state.json."""
    path = checkpoint / "trainer_state.json"
    if not path.exists():
        return History(())
    entries = json.loads(path.read_text()).get("log_history", [])
    return History(tuple((entry["step"], entry["loss"]) for entry in entries if "loss" in entry))


def model_card(
    attempt: AttemptFile, checkpoint: Manifest, history: History, trial: Trial, evaluated: Evaluated | None = None
) -> str:
    """Return README.md of the published model."""
    spec, plan, facts = attempt.spec, attempt.plan, attempt.inspection
    head = recipe_of(spec.objective).head(attempt)
    base = attempt.inspection.model.uri.removeprefix("hf://")
    revision = f" at `{facts.model.revision}`" if facts.model.revision else ""
    lines = ["---", front_matter(attempt, checkpoint).to_yaml(), "---", "", f"# {attempt.name}", ""]
    lines += [f"`{base}`{revision} fine-tuned by {spec.objective.value}, method {spec.tuning.method.value}.", ""]
    if facts.model.license is not None:
        known = facts.model.license
        named = ", ".join(part for part in (known.id, known.name, known.link) if part)
        lines += [f"The base model's card names its licence: {named}. It may bind this model too.", ""]
    lines += ["## Use", "", "```python", *_usage(attempt), "```", ""]
    lines += serving(attempt) if head is CAUSAL else []  # servers of language models have no use for another head
    lines += [
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _settings(attempt, checkpoint)),
    ]
    if history.losses:
        first, last = history.losses[0], history.losses[-1]
        lines += [f"| loss | {first[1]:.4f} (step {first[0]}) → {last[1]:.4f} (step {last[0]}) |"]
    lines += evaluation_lines(attempt, evaluated)
    lines += data_lines(facts.dataset)
    lines += ["", "## Lineage", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in lineage_rows(attempt, checkpoint, trial)]
    lines += [f"| {name} | {version} |" for name, version in sorted(checkpoint.versions.items())]
    lines += ["", f"Planned and trained by finetune-operator: {plan.strategy.value}, {plan.processes} processes.", ""]
    return "\n".join(lines)


def evaluation_lines(attempt: AttemptFile, evaluated: Evaluated | None) -> list[str]:
    """Return the section with the base model beside the tuned one; nothing where they were not evaluated."""
    if evaluated is None:
        return []
    datasets = [each for each in attempt.spec.all_datasets if each.evaluates]
    rows = ", ".join(f"`{each.evaluation.uri if each.evaluation else each.uri}`" for each in datasets)
    lines = ["", "## Evaluation", ""]
    generated = "; answers were generated greedily" if attempt.spec.evaluation.generates else ""
    lines += [f"On {evaluated.rows} rows of {rows} that were not trained{generated}.", ""]
    lines += ["| metric | base model | this model |", "|---|---|---|"]
    for figure in evaluated.figures:
        base = "" if figure.base is None else f"{figure.base:.4g}"
        lines += [f"| {figure.name} | {base} | {figure.tuned:.4g} |"]
    return lines


def publishes_model(spec: FineTuneJobSpec) -> bool:
    """Whether a whole model is published, which needs no PEFT."""
    return spec.tuning.trains_base or (spec.output.merge and spec.tuning.merges)


def front_matter(attempt: AttemptFile, checkpoint: Manifest) -> ModelCardData:
    """Return what hubs read of a card; the job stands there too, so that its own repository is known again."""
    spec, known = attempt.spec, attempt.inspection.model.license
    merged = publishes_model(spec)
    job: dict[str, Any] = {"job": f"{attempt.namespace}/{attempt.name}", "uid": attempt.uid, "step": checkpoint.step}
    ours: dict[str, Any] = {CARD_KEY: job}
    return ModelCardData(
        base_model=attempt.inspection.model.uri.removeprefix("hf://"),
        base_model_relation="finetune" if merged else "adapter",
        library_name=_library(spec) if merged else "peft",
        pipeline_tag=PIPELINES[spec.objective],
        tags=["finetune-operator", spec.objective.value, spec.tuning.method.value],
        license=known.id if known else None,
        license_name=known.name if known else None,
        license_link=known.link if known else None,
        **ours,
    )


def _library(spec: FineTuneJobSpec) -> str:
    return "sentence-transformers" if spec.objective in PAIRING else "transformers"


def serving(attempt: AttemptFile) -> list[str]:
    """Return how servers load what is published; adapters beside one base model, since that is what they are small for."""
    spec, name = attempt.spec, attempt.name
    lines = ["## Serve", "", "```sh"]
    adapted = spec.tuning.method in LORA_METHODS  # what servers load adapters of
    if publishes_model(spec):
        lines += ["vllm serve <this folder>"]
    lines += [f"llama-server --model <this folder>/{gguf_name(name, kind)}" for kind in spec.output.gguf]
    lines += ["```", ""]
    if not adapted:
        return lines
    base = attempt.inspection.model.uri.removeprefix("hf://")
    rank = next((size for size in VLLM_RANKS if size >= spec.tuning.adapter.rank), VLLM_RANKS[-1])
    return [
        *(lines if len(lines) > 5 else lines[:2]),
        "Several adapters on one base model, each request naming the one it is for:",
        "",
        "```sh",
        '# vLLM: in requests, "model" is the adapter\'s name',
        f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}=<this folder>/adapter other=<another adapter>",
        '# Text Generation Inference: in requests, "adapter_id" is the adapter\'s name',
        f"text-generation-launcher --model-id {base} --lora-adapters {name}=<this folder>/adapter,other=<another adapter>",
        '# LoRAX loads adapters when a request names them: "parameters": {"adapter_id": "<this folder>/adapter", "adapter_source": "local"}',
        f"lorax-launcher --model-id {base}",
        "```",
        "",
    ]


def _usage(attempt: AttemptFile) -> list[str]:
    head = recipe_of(attempt.spec.objective).head(attempt)
    is_whole = publishes_model(attempt.spec)
    if is_whole and attempt.spec.objective is Objective.EMBEDDING:
        return [
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("<this folder>")',
            'cosines = model.similarity(model.encode(["a question"]), model.encode(["an answer", "another one"]))',
        ]
    if is_whole and attempt.spec.objective is Objective.RERANKER:
        scored = 'scores = model.predict([("a question", "an answer"), ("a question", "another one")])'
        return ["from sentence_transformers import CrossEncoder", "", 'model = CrossEncoder("<this folder>")', scored]
    if is_whole and attempt.spec.objective in LABELLING:
        task = PIPELINES[attempt.spec.objective]
        return ["from transformers import pipeline", "", f'classify = pipeline("{task}", "<this folder>")']
    if is_whole:
        return [
            f"from transformers import {head.auto_class}, AutoTokenizer",
            "",
            f'model = {head.auto_class}.from_pretrained("<this folder>")',
            'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
        ]
    peft = head.auto_class.replace("Auto", "AutoPeft", 1)
    return [
        f"from peft import {peft}",
        "",
        f'model = {peft}.from_pretrained("<this folder>/adapter"{_outputs(head)})',
    ]


def _outputs(head: ModelHead) -> str:
    """Return what the base model's config must be told before the adapter's head fits it: how many numbers a head gives that writes no words."""
    outputs = head.settings.get("num_labels") or len(head.settings.get("id2label", ()))
    return f", num_labels={outputs}" if outputs else ""


def _settings(attempt: AttemptFile, checkpoint: Manifest) -> list[tuple[str, object]]:
    spec, plan = attempt.spec, attempt.plan
    training = spec.training
    settings: list[tuple[str, object]] = [
        ("steps", f"{checkpoint.step} of {plan.total_steps}, ended early" if checkpoint.is_final else plan.total_steps),
        (
            "global batch",
            f"{plan.global_batch_size} ({plan.micro_batch_size} × {plan.gradient_accumulation} × {plan.processes} processes)",
        ),
        ("longest sequence", f"{plan.max_length} tokens{', rows packed' if plan.packed else ''}"),
        ("learning rate", f"{spec.learning_rate:g}, {training.schedule}, warm-up {training.warmup:g}"),
        ("optimizer", f"{training.optimizer}, weight decay {training.weight_decay:g}"),
        ("precision", training.precision),
        *([] if spec.objective in ENCODING else [("loss on", training.loss_on)]),
        ("seed", training.seed),
    ]
    if spec.objective is Objective.EMBEDDING:
        settings.append(("vector of a text", f"pooling {pooling_of(attempt)} of its tokens' vectors"))
    if (distill := training.distill) is not None:
        share = f"cross-entropy of the rows' answers {distill.cross_entropy_weight:g}, teacher {1 - distill.cross_entropy_weight:g}"
        settings.append(("loss", f"{share}, temperature {distill.temperature:g}"))
    if spec.tuning.method is Method.FREEZE:
        freeze = spec.tuning.unfrozen
        settings.append(("trained", ", ".join((freeze.trainable, *freeze.modules))))
    if spec.tuning.method is Method.SPECTRUM:
        settings.append(("trained", f"the best {spec.tuning.top_fraction:.0%} of each kind of linear layer"))
    if spec.tuning.method in VIRTUAL_TOKEN_METHODS:
        settings.append(("trained", f"{spec.tuning.virtual_tokens_or_default} virtual tokens"))
    if spec.tuning.method in LORA_METHODS:
        lora = spec.tuning.adapter
        targets = ", ".join(lora.targets)
        settings.append(
            ("adapter", f"{lora.variant}, rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}, {targets}")
        )
    return settings
