"""TRL's SFTTrainer as one rank of a job whose student learns a teacher's distribution over the next token, beside the rows' own answers.

TRL 1.16 has three trainers for this. DistillationTrainer learns on-policy alone: from answers that the student generates. GKDTrainer
(experimental) takes the rows' answers, but makes both models' whole logits: 2 × 4 bytes × 128,000 words are 1 MB for every token. What the first
computes its loss with, ChunkedDivergenceFunction, compares any hidden states tile by tile; it is the loss here, on the tokens that SFTTrainer
counts. tests/trainer/test_distill.py compares it with GKDTrainer's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from peft import PeftModel
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.job_context import JobContext
from finetune_trainer.objectives.distillation import teacher_of
from finetune_trainer.objectives.supervised_trainer import SupervisedTrainer
from finetune_trainer.packed_batches import check_isolation

FORWARD: Final = 0.0
"""TRL's beta of the forward divergence, KL(teacher ‖ student): the student covers all that its teacher finds likely."""
PROBE_TOKENS: Final = 16
LARGEST_DIFFERENCE: Final = 0.03
"""Of a logit, as a share of the largest one: bfloat16 has 0.004 for each of the two ways it is computed."""


class Output(NamedTuple):
    """How a model makes logits of its last hidden states."""

    head: Any
    scale: float
    cap: float | None
    """The tanh that logits are capped by (Gemma 2); None: they are not."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return them, as the divergence computes them: (tokens, words) in float32."""
        found = self.head(hidden).float() * self.scale
        return found if self.cap is None else self.cap * torch.tanh(found / self.cap)


def output_of(model: Any) -> Output:
    """Return a causal model's output: the names that families have for what they multiply logits by (transformers 5.23)."""
    config = model.config.get_text_config()
    scale = next(
        (
            value
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (value := getattr(config, name, None)) is not None
        ),
        None,
    )
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        scale = 1 / config.logits_scaling
    return Output(
        model.get_output_embeddings(),
        1.0 if scale is None else scale,
        getattr(config, "final_logit_softcapping", None),
    )


def load_teacher(attempt: AttemptFile, folder: Path) -> Any:
    """Return the job's teacher on this process's device."""
    return teacher_of(folder, attempt, torch.cuda.current_device() if attempt.plan.accelerator == "gpu" else None)


class DistillationTrainer(SupervisedTrainer):
    """One rank's trainer of objective distill."""

    def __init__(self, context: JobContext, teacher: Any, **arguments: Any) -> None:
        super().__init__(context, **arguments)
        distill = context.attempt.spec.training.distill
        if distill is None:
            raise AssertionError("the API refuses objective distill without its block")
        self._settings, self._teacher = distill, teacher
        self._student = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self._seen: list[torch.Tensor] = []
        # Not output_hidden_states, which keeps those of every layer.
        self._student.base_model.register_forward_hook(
            lambda module, inputs, output: self._seen.append(output.last_hidden_state)
        )

    def before_training(self, resumed_from: Path | None) -> None:
        """Prove that both models' logits are what is compared, and that a teacher of packed rows keeps them apart."""
        super().before_training(resumed_from)
        for name, model in (("model", self._student), ("training.distill.teacher", self._teacher)):
            check_output(name, model)
        self._seen.clear()
        if self._packs:
            check_isolation(self._teacher, self._teacher.config.get_text_config().vocab_size)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of the answers' cross-entropy and of the teacher's divergence, each a mean over the counted tokens."""
        counted = inputs["labels"][:, 1:] != -100
        asked = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            wanted = self._teacher.base_model(**asked, use_cache=False).last_hidden_state[:, :-1][counted]
        self._seen.clear()
        answers = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        divergence = self._divergence(self._seen.pop()[:, :-1][counted], wanted)
        total = counted.sum().clamp(min=1)
        self._note(divergence.detach(), total)
        # As SFTTrainer does: in a step by the tokens of all ranks, whose gradients DDP averages.
        several = 1 if num_items_in_batch is None else self.accelerator.num_processes
        mean = several * divergence / (total if num_items_in_batch is None else num_items_in_batch)
        share, temperature = self._settings.cross_entropy_weight, self._settings.temperature
        loss = share * answers + (1 - share) * temperature**2 * mean
        return (loss, None) if return_outputs else loss

    def _divergence(self, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the sum over tokens of KL(teacher ‖ student), from last hidden states of (tokens, width) each.

        Heads of one tokenizer may have different numbers of rows beyond its words (Qwen 2.5 pads by size); those that both have are compared.
        """
        ours, theirs = output_of(self._student), output_of(self._teacher)
        words = min(len(ours.head.weight), len(theirs.head.weight))
        weights = [_first(each, words) for output in (ours, theirs) for each in (output.head.weight, output.head.bias)]
        with self.accelerator.autocast():
            found, _ = ChunkedDivergenceFunction.apply(
                hidden,
                weights[0],
                weights[1],
                wanted,
                weights[2],
                weights[3],
                FORWARD,
                self._settings.temperature,
                ours.scale,
                ours.cap,
                theirs.scale,
                theirs.cap,
            )
        summed: torch.Tensor = found.sum()
        return summed

    def _note(self, divergence: torch.Tensor, counted: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        # Not gather_for_metrics: accelerate 1.15 leaves out ranks in the last step of an epoch whose rows do not divide, and others after a resume.
        summed, total = (self.accelerator.gather(each).sum() for each in (divergence, counted))
        self._metrics[mode]["teacher_kl"].append(float(summed / total))


def _first(weight: torch.Tensor | None, count: int) -> torch.Tensor | None:
    return weight if weight is None or len(weight) == count else weight[:count]


def check_output(name: str, model: Any) -> None:
    """Raise where a model's logits are not what its head makes of its last hidden states: they would be compared with another model's.

    Raises:
        TrainerFailure: It does something else to them, which `output_of` does not know.
    """
    device, was_training = next(model.parameters()).device, model.training
    tokens = torch.arange(PROBE_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
    model.eval()
    with torch.no_grad():
        own = model(input_ids=tokens, use_cache=False).logits.float()
        made = output_of(model).logits(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    model.train(was_training)
    difference, largest = float((own - made).abs().max()), float(own.abs().max())
    if not difference <= LARGEST_DIFFERENCE * largest:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{name}.uri: this model ({model.config.model_type}) does more to its logits than objective: distill knows (a difference of "
            f"{difference:.2g} at logits of up to {largest:.2g}); use a model of another family, or objective: sft",
        )
