"""TRL's online trainers as one rank of a job: prompts in our order, rewards of the spec, one generation for each step."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl import GRPOTrainer, RLOOTrainer
from trl.models.utils import unwrap_model_for_generation

from finetune_operator.api.plan import Phase
from finetune_trainer.job_context import JobContext
from finetune_trainer.job_trainer import JobTraining
from finetune_trainer.objectives.group_order import GroupOrder
from finetune_trainer.objectives.online import settings_of
from finetune_trainer.rewards.model_scores import ModelScores
from finetune_trainer.rewards.scoring import reward_functions


class OnlineTraining(JobTraining):
    """What both have."""

    def __init__(self, context: JobContext, *, train_dataset: Any, **arguments: Any) -> None:
        online = settings_of(context.attempt)
        plan, spec = context.attempt.plan, context.attempt.spec
        self._judges = [
            ModelScores(
                folder,
                arguments["args"],
                dtype=torch.float32 if spec.training.precision == "fp32" else torch.bfloat16,
                micro_batch=plan.micro_batch_size,
                max_length=plan.max_length,
            )
            for folder in context.reward_models
        ]
        super().__init__(
            context,
            reward_funcs=reward_functions(online.rewards, self._judges, context.functions),
            train_dataset=as_read(train_dataset),
            **arguments,
        )
        # Where no reward has an opinion of an answer TRL logs the row with its prompt and answer.
        logging.getLogger("trl.trainer").setLevel(logging.ERROR)

    def before_training(self, resumed_from: Path | None) -> None:
        """Begin counting tokens where the checkpoint ended, and let ranks that shard the model pass through it equally often.

        transformers 5.23 looks for a mark of its own sharding (generation/utils.py, synced_gpus), which accelerate's has not: a rank whose
        answers have all ended would leave the others waiting for its part of the weights, forever.
        """
        self._tokens_before = self.state.num_input_tokens_seen  # TRL logs the sum over all attempts
        if self.is_fsdp_enabled:
            base = self.accelerator.unwrap_model(self.model)
            if isinstance(base, PeftModel):
                base = base.get_base_model()
            base._is_fsdp_managed_module = True

    def make_order(self, context: JobContext) -> GroupOrder:
        """Return the order in which prompts are answered."""
        plan, seed = context.attempt.plan, context.attempt.spec.training.seed
        return GroupOrder(
            len(self.train_dataset),
            plan.global_batch_size,
            settings_of(context.attempt).generations,
            plan.gradient_accumulation,
            seed,
        )

    def try_beside(self) -> None:
        """Generate answers of full length to the longest prompts, as many as in a step, and have reward models score as much as they ever do."""
        count = self.args.per_device_train_batch_size * self.args.steps_per_generation
        settings = copy.deepcopy(self.generation_config)
        settings.min_new_tokens = settings.max_new_tokens
        device, longest = self.args.device, max(self.train_dataset.data.column("tokens").to_pylist())
        prompts = torch.full((count, longest), self._tokenizer.eos_token_id, dtype=torch.long, device=device)
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.no_grad(),
        ):
            model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)
        for judge in self._judges:
            judge.try_largest()

    def longest_batch(self) -> tuple[dict[str, Any], int]:
        """Return a micro-batch of the longest prompts with answers of full length that are worth nothing, and its length in tokens."""
        settings, count = settings_of(self.context.attempt), self.args.per_device_train_batch_size
        prompt, completion = max(self.train_dataset.data.column("tokens").to_pylist()), settings.max_completion_length
        device = self.args.device
        prompts, completions = (
            torch.zeros(count, length, dtype=torch.long, device=device) for length in (prompt, completion)
        )
        nothing = torch.zeros(count, device=device)
        return {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": completions,
            "completion_mask": torch.ones_like(completions),
            "advantages": nothing,
            "old_logps": nothing,
            "ref_per_token_logps": torch.zeros(count, completion, device=device),
            "num_items_in_batch": torch.tensor(float(count * completion), device=device),
        }, prompt + completion

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Have an out of memory that ends it told as one of the generation."""
        telemetry = self.context.telemetry
        before, telemetry.phase = telemetry.phase, Phase.GENERATION
        made = super()._generate_and_score_completions(inputs)
        telemetry.phase = before
        return made

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Leave the probe's batch as it is; others are prompts, which are answered and rewarded."""
        return inputs if isinstance(inputs, dict) else super()._prepare_inputs(inputs)

    def measures_in(self, logs: dict[str, Any]) -> dict[str, float]:
        """Return what TRL has logged, each reward by its name."""
        rewards = {
            f"reward_mean:{key.removeprefix('rewards/').removesuffix('/mean')}": value
            for key, value in logs.items()
            if key.startswith("rewards/")
            and key.endswith("/mean")
            and value is not None  # None: no opinion of any answer
        }
        return super().measures_in(logs) | rewards


def as_read(rows: Any) -> Any:
    """Return the encoded rows as TRL takes them: a prompt, and every column that any row has, None where it has it not."""
    names = sorted({name for columns in rows["columns"] for name in json.loads(columns)})

    def read(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        columns = [json.loads(each) for each in batch["columns"]]
        return {
            **{name: [row.get(name) for row in columns] for name in names},
            "prompt": [json.loads(prompt) for prompt in batch["prompt"]],
        }

    return rows.with_transform(read)


class GroupTrainer(OnlineTraining, GRPOTrainer):
    """Objective grpo: answers are compared with the mean of their group."""


class LeaveOneOutTrainer(OnlineTraining, RLOOTrainer):
    """Objective rloo: answers are compared with the mean of the others in their group."""
