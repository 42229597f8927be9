"""The published files: adapter and merged model, or the whole fine-tuned model, loaded again and tried before anybody gets them."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.export import check_exported, exported
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_card import Trial, model_card, read_history
from finetune_trainer.modeling import load_base_model
from finetune_trainer.turn_end import end_generation_with_turns

ADAPTER_FOLDER: Final = "adapter"
SHARD_SIZE: Final = "5GB"
NEW_TOKENS: Final = 8
PROBE_TEXT: Final = "The answer is"
MERGE_TOLERANCE: Final = 0.05
"""Largest allowed difference of a logit between merged model and adapter, as a share of the largest logit (at least of 1).

Merging rounds base + adapter to bfloat16 once (8 bits, 2^-9 per weight); measured on the tiny models: below 0.01.
"""
FLOAT_TOLERANCE: Final = 1e-4
"""The same where everything is float32."""
_ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def build_result(attempt: AttemptFile, base: Path | None, checkpoint: Path, target: Path, manifest: Manifest) -> None:
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
    end_generation_with_turns(target, attempt.spec.model.chat_template)
    card = model_card(attempt, manifest, read_history(checkpoint), trial)
    (target / "README.md").write_text(card)


def _dtype(attempt: AttemptFile) -> str:
    return "float32" if attempt.spec.training.precision == "fp32" else "bfloat16"


def _full_model(attempt: AttemptFile, source: Path, target: Path) -> Trial:
    model = load_base_model(attempt, source, dtype=_dtype(attempt), quantized=False)
    _save(model, target)
    del model
    gc.collect()
    return _try(load_base_model(attempt, target, dtype=_dtype(attempt), quantized=False), source)


def _adapter(attempt: AttemptFile, base: Path, source: Path, target: Path) -> Trial:
    from peft import PeftModel

    adapter = target / ADAPTER_FOLDER
    adapter.mkdir()
    for name in _ADAPTER_FILES:
        shutil.copyfile(source / name, adapter / name)
    _name_base(adapter / "adapter_config.json", attempt.spec.model.uri)
    # Unquantised also after qlora: a merge into 4-bit weights would stay 4-bit.
    model = load_base_model(attempt, base, dtype=_dtype(attempt), quantized=False)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    inputs = _probe_tokens(source)
    expected = _logits(adapted, inputs)
    if not attempt.spec.output.merge:
        return _try(adapted, source)
    merged = adapted.merge_and_unload()
    _save(merged, target)
    del merged, adapted, model
    gc.collect()
    loaded = load_base_model(attempt, target, dtype=_dtype(attempt), quantized=False).eval()
    difference = _relative_difference(_logits(loaded, inputs), expected)
    allowed = FLOAT_TOLERANCE if _dtype(attempt) == "float32" else MERGE_TOLERANCE
    if not difference <= allowed:
        raise TrainerFailure(
            ExitCode.BUG,
            f"the merged model differs from the adapter by {difference:.2g} of the largest logit, more than {allowed:g}; nothing was published",
        )
    return _try(loaded, source, difference)


def _name_base(config: Path, uri: str) -> None:
    """Say where the base model is: PEFT writes the trainer's local folder."""
    values = json.loads(config.read_text())
    values["base_model_name_or_path"] = uri.removeprefix("hf://")
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _save(model: Any, target: Path) -> None:
    model.config.use_cache = True
    model.save_pretrained(target, max_shard_size=SHARD_SIZE)


def _probe_tokens(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)(PROBE_TEXT, return_tensors="pt")["input_ids"]


def _logits(model: Any, tokens: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=tokens).logits.float()


def _relative_difference(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _try(model: Any, tokenizer_folder: Path, difference: float | None = None) -> Trial:
    """Generate some tokens with what was saved; a model whose logits are not finite is not published."""
    import torch

    tokens = _probe_tokens(tokenizer_folder)
    if not bool(torch.isfinite(_logits(model, tokens)).all()):
        raise TrainerFailure(ExitCode.DIVERGED, "the trained model's logits are not finite; nothing was published")
    model.config.use_cache = True
    with torch.no_grad():
        generated = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=1,
            do_sample=False,
        )
    return Trial(generated_tokens=int(generated.shape[1] - tokens.shape[1]), merge_difference=difference)
