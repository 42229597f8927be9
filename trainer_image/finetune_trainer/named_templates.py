"""The chat template that a spec gives: one of those in chat_templates/ by its name, or its own text."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from finetune_operator.api.chat_templates import TEMPLATE_TOKENS
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure


def template_source(chat_template: str) -> str:
    """Return the Jinja text of `model.chatTemplate`."""
    if chat_template not in TEMPLATE_TOKENS:
        return chat_template
    return (files("finetune_trainer") / "chat_templates" / f"{chat_template}.jinja").read_text(encoding="utf-8")


def check_tokens(chat_template: str, has_token: Callable[[str], bool]) -> None:
    """Raise when a template that is named needs tokens that the tokenizer has not."""
    missing = [token for token in TEMPLATE_TOKENS.get(chat_template, ()) if not has_token(token)]
    if missing:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"model.chatTemplate: {chat_template} needs the tokens {', '.join(missing)}, which the model's tokenizer has not; name a template of the "
            "model's family, or write a Jinja template that ends turns with {{ eos_token }}",
        )
