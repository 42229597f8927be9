"""Which tokens the loss counts."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.encoding import IGNORED, Encoder, answer_spans, labels_in
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rows import Conversation, Message, PromptCompletion
from finetune_trainer.testing import CHAT_TEMPLATE
from finetune_trainer.tokenizer_files import TokenizerFiles

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<|start_header_id|>", "<|end_header_id|>")
UNMARKED = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
LLAMA3 = (
    "<s>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
TALK = Conversation(
    (
        Message("user", "one?"),
        Message("assistant", "first answer"),
        Message("user", "two?"),
        Message("assistant", "second answer"),
    )
)


def tokenizer(template: str | None, end: str = "</s>") -> TokenizerFiles:
    """One token per byte, so that spans can be read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(list(SPECIAL))
    tokens = {"eos_token": end}
    return TokenizerFiles(words, tokens, None if template is None else ChatTemplate(template, tokens), ())


def counted(template: str, *, completions_only: bool = True, max_length: int = 10_000) -> str:
    files = tokenizer(template)
    assert files.template is not None
    encoder = Encoder(files, completions_only=completions_only, max_length=max_length)
    encoded = encoder.encode(TALK, files.template.render(TALK.messages))
    kept = [label for label in encoded.labels if label != IGNORED]
    assert all(label in (IGNORED, token) for token, label in zip(encoded.tokens, encoded.labels, strict=True))
    text: str = files.tokenizer.decode(kept, skip_special_tokens=False)
    return text


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(CHAT_TEMPLATE, "first answer<|im_end|>second answer<|im_end|>", id="chatml with marks"),
        pytest.param(UNMARKED, "first answer<|im_end|>\nsecond answer<|im_end|>\n", id="chatml"),
        pytest.param(LLAMA3, "first answer</s>second answer</s>", id="llama-3"),
        pytest.param(MISTRAL, " first answer</s> second answer</s>", id="mistral"),
    ],
)
def test_the_loss_counts_the_answers_and_their_ends(template: str, expected: str) -> None:
    assert counted(template) == expected


def test_the_loss_counts_everything_when_the_spec_says_all() -> None:
    files = tokenizer(LLAMA3)
    assert files.template is not None

    assert counted(LLAMA3, completions_only=False) == files.template.render(TALK.messages)


def test_long_rows_are_cut_on_the_right() -> None:
    assert counted(MISTRAL, max_length=20) == " first answe"


def test_rows_cut_on_the_left_keep_their_last_answer() -> None:
    text = ChatTemplate(MISTRAL, {}).render(TALK.messages)
    encoder = Encoder(tokenizer(MISTRAL), completions_only=True, max_length=20, truncation="left")

    encoded = encoder.encode(TALK, text)

    assert len(encoded.tokens) == len(encoded.labels) == 20
    kept = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer(MISTRAL).tokenizer.decode(kept, skip_special_tokens=False) == " second answer</s>"
    whole = encoder.encode(PromptCompletion("prompt", "x"), "promptx</s>")
    assert whole.tokens == tokenizer(None).tokenizer.encode("promptx</s>").ids


def test_a_row_whose_answer_was_cut_off_has_nothing_to_learn() -> None:
    encoder = Encoder(tokenizer(None), completions_only=True, max_length=4)

    assert not encoder.encode(PromptCompletion("prompt", "x"), "promptx</s>").is_trainable


def test_a_completion_is_counted_with_its_end() -> None:
    files = tokenizer(None)

    encoded = Encoder(files, completions_only=True, max_length=100).encode(PromptCompletion("2+2=", "4"), "2+2=4</s>")

    kept = [label for label in encoded.labels if label != IGNORED]
    assert files.tokenizer.decode(kept, skip_special_tokens=False) == "4</s>"


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_remedy() -> None:
    def render(messages: object, prompt: bool) -> str:
        return f"{len(list(messages))} turns"

    with pytest.raises(TrainerFailure, match="lossOn: all") as refused:
        answer_spans(TALK.messages, render, "4 turns")

    assert refused.value.exit_code is ExitCode.BAD_SPEC


def test_a_template_that_refuses_the_turns_before_an_answer_is_refused_with_the_remedy() -> None:
    closed = "{% if not messages %}{{ raise_exception('a conversation begins with a user') }}{% endif %}" + LLAMA3
    files = tokenizer(closed)
    assert files.template is not None
    talk = Conversation((Message("assistant", "SECRET welcome"), *TALK.messages))
    encoder = Encoder(files, completions_only=True, max_length=100)

    with pytest.raises(TrainerFailure, match=r"begins with a user.*lossOn: all") as refused:
        encoder.encode(talk, files.template.render(talk.messages))

    assert refused.value.exit_code is ExitCode.BAD_SPEC
    assert "SECRET" not in str(refused.value)


def test_a_token_counts_when_it_starts_inside_an_answer() -> None:
    assert labels_in([7, 8, 9], [(0, 2), (2, 5), (5, 5)], [(1, 6)]) == [IGNORED, 8, IGNORED]
