"""What people write with TRL alone, with the settings of a job given as JSON: the other side of bench/trainer.py.

    python bench/plain/trl_sft.py SETTINGS.json

Of the project it imports nothing. A line of JSON per step goes to the file that the settings name.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Told(TrainerCallback):
    """Tells each step's loss."""

    def __init__(self, events):
        self.events = events

    def on_log(self, args, state, control, logs, **others):
        """A step is over."""
        if "loss" in logs:
            with open(self.events, "a") as file:
                file.write(json.dumps({"event": "step", "step": state.global_step, "loss": logs["loss"]}) + "\n")


def train(settings):
    """Train, and save the model or adapter where the settings name a `result`."""
    more = (
        {"quantization_config": BitsAndBytesConfig(**settings["quantization"])} if settings.get("quantization") else {}
    )
    dtype = getattr(torch, settings["dtype"])
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype, **more),
        args=SFTConfig(**settings["arguments"]),
        train_dataset=load_dataset("json", data_files=settings["data"], split="train"),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        peft_config=LoraConfig(**settings["lora"]) if settings["lora"] else None,
        callbacks=[Told(settings["events"])],
    )
    trainer.train()
    if settings.get("result"):
        trainer.save_model(settings["result"])


def main():
    """Train by the file that is named."""
    train(json.loads(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    main()
