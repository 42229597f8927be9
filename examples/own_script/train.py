"""Plain transformers: a language model on rows of `prompt` and `completion`. Only the four places come from its surroundings.

Nothing here is of finetune-operator. `report_to="kubeflow"` is transformers' own callback, which tells how far the training is.
"""

import json
import os
from pathlib import Path

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

checkpoints, result = os.environ["FINETUNE_CHECKPOINT_FOLDER"], os.environ["FINETUNE_RESULT_FOLDER"]
tokenizer = AutoTokenizer.from_pretrained(os.environ["MODEL"])
rows = [json.loads(line) for line in Path(os.environ["DATA"]).read_text().splitlines()]
texts = [f"{row['prompt']}{row['completion']}{tokenizer.eos_token}" for row in rows]

trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(os.environ["MODEL"]),
    args=TrainingArguments(
        output_dir=checkpoints,
        max_steps=int(os.environ.get("STEPS", "20")),
        per_device_train_batch_size=4,
        logging_steps=1,
        save_steps=5,
        save_total_limit=1,
        report_to="kubeflow",
    ),
    train_dataset=[tokenizer(text, truncation=True, max_length=256) for text in texts],
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints))
trainer.save_model(result)
tokenizer.save_pretrained(result)
