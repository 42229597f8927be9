"""Whether the result can be had in the formats that `output` names, asked of the model's small files before a GPU is taken."""

from __future__ import annotations

import json

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.gguf import gguf_obstacle
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_files import ModelFolder
from finetune_trainer.publish.gguf_tokenizer import UnsupportedTokenizer, read_vocabulary
from finetune_trainer.tokenizer_files import TOKENIZER_FILE


def check_formats(spec: FineTuneJobSpec, folder: ModelFolder) -> None:
    """Raise when a GGUF file is wanted and llama.cpp does not know the model's architecture or tokenizer."""
    if not spec.output.gguf:
        return
    obstacle = gguf_obstacle(folder.config)
    if obstacle is None:
        try:
            rows = folder.config.get("vocab_size")
            read_vocabulary(json.loads(folder.storage.read(TOKENIZER_FILE)), rows if isinstance(rows, int) else None)
        except UnsupportedTokenizer as error:
            obstacle = str(error)
    if obstacle is not None:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"output.gguf cannot be made of {spec.model.uri}: {obstacle}. Remove output.gguf, or choose another model.uri",
            Reason.UNSUPPORTED_COMBINATION,
        )
