"""The published files: adapter and merged model, or the whole fine-tuned model, loaded again and tried before anybody gets them.

Memory stays near one copy of the model in its 16 bits: PEFT adds the adapter to the base in place, and the model that was saved is gone before it is
loaded again. Measured with 0.4B parameters in bfloat16 (0.71 GiB): 1.03 times their bytes at most, from the load of the base to the
check of the merged model. After qlora the 4-bit weights are there beside them for a moment.
"""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.gguf import gguf_name
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.export import check_exported, exported
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import model_source
from finetune_trainer.lineage import ADAPTER_FILES, ADAPTER_FOLDER
from finetune_trainer.modeling import load_adapted_base, load_base_model
from finetune_trainer.objectives import recipe_of
from finetune_trainer.publish.card_lineage import Trial
from finetune_trainer.publish.model_card import model_card, publishes_model, read_history
from finetune_trainer.publish.trial import answer, logits_of, probe_tokens
from finetune_trainer.turn_end import end_generation_with_turns

SHARD_SIZE: Final = "5GB"
MERGE_TOLERANCE: Final = 0.05
"""Largest allowed difference of a logit between merged model and adapter, as a share of the largest logit (at least of 1).

Compared at every position of the prompt and of what base and adapter continue it with, so that tokens which the merged model would choose
otherwise were a tie within this tolerance. Merging rounds base + adapter to bfloat16 once (8 bits, 2^-9 per weight); measured on the tiny models:
below 0.01.
"""
FLOAT_TOLERANCE: Final = 1e-4
"""The same where everything is float32."""
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def build_result(
    attempt: AttemptFile,
    base: Path | None,
    checkpoint: Path,
    target: Path,
    manifest: Manifest,
    evaluated: Evaluated | None = None,
) -> None:
    """Write everything that is published, but the manifest, to `target`; without a `base` the checkpoint has every weight."""
    import transformers

    transformers.logging.disable_progress_bar()
    source = exported(checkpoint)
    check_exported(source, adapter=base is not None)
    target.mkdir(parents=True)
    trial = _full_model(attempt, source, target) if base is None else _adapter(attempt, base, source, target)
    for name in _TOKENIZER_FILES:
        found = next((folder / name for folder in (source, base) if folder and (folder / name).is_file()), None)
        if found is not None and not (target / name).exists():
            shutil.copyfile(found, target / name)
    if publishes_model(attempt.spec):
        gc.collect()
        recipe_of(attempt.spec.objective).finish(attempt, target, _dtype(attempt))
    end_generation_with_turns(target, model_source(attempt).chat_template)
    gc.collect()
    if attempt.spec.output.gguf:
        from finetune_trainer.publish.gguf_file import write_gguf

        base_name = attempt.inspection.model.uri.removeprefix("hf://")
        for kind in attempt.spec.output.gguf:
            write_gguf(target, target / gguf_name(attempt.name, kind), kind, name=attempt.name, base=base_name)
    card = model_card(attempt, manifest, read_history(checkpoint), trial, evaluated)
    (target / "README.md").write_text(card)


def _dtype(attempt: AttemptFile) -> str:
    return "float32" if attempt.spec.training.precision == "fp32" else "bfloat16"


def _full_model(attempt: AttemptFile, source: Path, target: Path) -> Trial:
    model = load_base_model(attempt, source, dtype=_dtype(attempt), quantized=False)
    _save(model, target)
    del model
    gc.collect()
    loaded = load_base_model(attempt, target, dtype=_dtype(attempt), quantized=False)
    return Trial(answer(loaded, probe_tokens(source)).generated)


def _adapter(attempt: AttemptFile, base: Path, source: Path, target: Path) -> Trial:
    from peft import PeftModel

    adapter = target / ADAPTER_FOLDER
    adapter.mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(source / name, adapter / name)
    _name_base(adapter / "adapter_config.json", attempt.inspection.model.uri)
    model = load_adapted_base(attempt, base, dtype=_dtype(attempt))
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    prompt = probe_tokens(source)
    expected = answer(adapted, prompt)
    if not publishes_model(attempt.spec):
        return Trial(expected.generated)
    merged = adapted.merge_and_unload()
    _save(merged, target)
    del merged, adapted, model
    gc.collect()
    loaded = load_base_model(attempt, target, dtype=_dtype(attempt), quantized=False).eval()
    difference = _relative_difference(logits_of(loaded, expected.tokens), expected.logits)
    allowed = FLOAT_TOLERANCE if _dtype(attempt) == "float32" else MERGE_TOLERANCE
    if not difference <= allowed:
        raise TrainerFailure(
            ExitCode.BUG,
            f"the merged model differs from the adapter by {difference:.2g} of the largest logit, more than {allowed:g}; nothing was published",
        )
    found = answer(loaded, prompt)
    equal = sum(a == b for a, b in zip(found.continuation, expected.continuation, strict=False))
    return Trial(found.generated, difference, equal)


def _name_base(config: Path, uri: str) -> None:
    """Say where the base model is: PEFT writes the trainer's local folder."""
    values = json.loads(config.read_text())
    values["base_model_name_or_path"] = uri.removeprefix("hf://")
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _save(model: Any, target: Path) -> None:
    model.config.use_cache = True
    model.save_pretrained(target, max_shard_size=SHARD_SIZE)


def _relative_difference(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
