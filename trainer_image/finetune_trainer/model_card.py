"""The model card: what the model was made from and how, in numbers and names. Pure but for one file that it reads; no content of rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.api.compatibility import Method
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile


@dataclass(frozen=True)
class Trial:
    """What the finished model did when it was tried."""

    generated_tokens: int
    merge_difference: float | None


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


def model_card(attempt: AttemptFile, checkpoint: Manifest, history: History, trial: Trial) -> str:
    """Return README.md of the published model."""
    spec, plan, facts = attempt.spec, attempt.plan, attempt.inspection
    base = spec.model.uri.removeprefix("hf://")
    revision = f" at `{facts.model.revision}`" if facts.model.revision else ""
    front = {
        "base_model": base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["finetune-operator", spec.objective.value, spec.tuning.method.value],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        "---",
        "",
        f"# {attempt.name}",
        "",
    ]
    lines += [f"`{base}`{revision} fine-tuned by {spec.objective.value}, method {spec.tuning.method.value}.", ""]
    lines += ["## Use", "", "```python", *_usage(attempt), "```", ""]
    lines += ["## Training", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in _settings(attempt))]
    if history.losses:
        first, last = history.losses[0], history.losses[-1]
        lines += [f"| loss | {first[1]:.4f} (step {first[0]}) → {last[1]:.4f} (step {last[0]}) |"]
    lines += [
        "",
        "## Data",
        "",
        f"{facts.dataset.rows} rows of `{spec.dataset.uri}` (format {facts.dataset.format}):",
        "",
    ]
    lines += ["| file | bytes | ETag |", "|---|---|---|"]
    lines += [f"| `{file.uri}` | {file.size} | {file.etag or ''} |" for file in facts.dataset.files]
    lines += ["", "## Lineage", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _lineage(attempt, checkpoint, trial)]
    lines += [f"| {name} | {version} |" for name, version in sorted(checkpoint.versions.items())]
    lines += ["", f"Planned and trained by finetune-operator: {plan.strategy.value}, {plan.processes} processes.", ""]
    return "\n".join(lines)


def _usage(attempt: AttemptFile) -> list[str]:
    if attempt.spec.tuning.method is Method.FULL or attempt.spec.output.merge:
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("<this folder>")',
            'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
        ]
    return [
        "from peft import AutoPeftModelForCausalLM",
        "",
        'model = AutoPeftModelForCausalLM.from_pretrained("<this folder>/adapter")',
    ]


def _settings(attempt: AttemptFile) -> list[tuple[str, object]]:
    spec, plan = attempt.spec, attempt.plan
    training = spec.training
    settings: list[tuple[str, object]] = [
        ("steps", plan.total_steps),
        (
            "global batch",
            f"{plan.global_batch_size} ({plan.micro_batch_size} × {plan.gradient_accumulation} × {plan.processes} processes)",
        ),
        ("longest sequence", f"{plan.max_length} tokens{', rows packed' if plan.packed else ''}"),
        ("learning rate", f"{spec.learning_rate:g}, {training.schedule}, warm-up {training.warmup:g}"),
        ("weight decay", f"{training.weight_decay:g}"),
        ("precision", training.precision),
        ("loss on", training.loss_on),
        ("seed", training.seed),
    ]
    if spec.tuning.method is not Method.FULL:
        lora = spec.tuning.adapter
        targets = ", ".join(lora.targets)
        settings.append(("adapter", f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}, {targets}"))
    return settings


def _lineage(attempt: AttemptFile, checkpoint: Manifest, trial: Trial) -> list[tuple[str, object]]:
    lineage: list[tuple[str, object]] = [
        ("job", f"{attempt.namespace}/{attempt.name}"),
        ("uid", attempt.uid),
        ("attempt", checkpoint.attempt),
        ("checkpoint", f"step {checkpoint.step}, written by {checkpoint.world_size} processes ({checkpoint.strategy})"),
        ("tried", f"{trial.generated_tokens} tokens generated, all logits finite"),
    ]
    if trial.merge_difference is not None:
        lineage.append(
            ("merged against adapter", f"largest difference {trial.merge_difference:.2g} of the largest logit")
        )
    return lineage
