"""Tiny models of the families that GGUF files are made of, and what transformers and llama.cpp make of the same text. For `RankServer.call`."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.gguf import GgufType, gguf_name
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.publish.gguf_file import check_gguf, write_gguf
from finetune_trainer.testing import arithmetic_rows

TEXTS: Final = (
    "Ada has 17 apples and gets 3 more.",
    "  Two  spaces,\n\nnew lines\tand a tab; it's done, WE'LL see",
    "<|turn|>user\nHow many? 1234567<|stop|>",
    "naïve café – 日本語 🚀",
)
"""What both tokenizers must cut alike: words, numbers, blanks, special tokens, and characters that no token has."""
NEW_TOKENS: Final = 12
TIE: Final = 0.02
"""Of the spread of the logits: llama.cpp multiplies in float16, transformers in float32, and random weights make near ties."""
_LLAMA_3: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0}
_LLAMA_3_ROPE: Final = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN: Final = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_GEMMA_3_ROPE: Final = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    "sliding_attention": _ROPE,
}

FAMILIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama-bpe", {"rope_parameters": _LLAMA_3_ROPE}),
    "mistral": ("pieces", {"rope_parameters": _ROPE, "sliding_window": None}),
    "qwen2": ("qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("gpt-2", {"rope_parameters": _ROPE, "tie_word_embeddings": True, "head_dim": 32}),
    "gemma": ("pieces", {"rope_parameters": _ROPE, "head_dim": 16}),
    "gemma2": ("pieces", {"rope_parameters": _ROPE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma3_text": (
        "pieces",
        {"rope_parameters": _GEMMA_3_ROPE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    ),
}
"""Model type: its tokenizer and what its config has beside the usual."""


def write_family(folder: Path, kind: str) -> None:
    """Write a tiny model of random weights, large enough that no two tokens are a tie."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer_kind, more = FAMILIES[kind]
    tokenizer = _pieces() if tokenizer_kind == "pieces" else _byte_level(tokenizer_kind)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer) + 5,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=7 if kind == "gemma3_text" else 2,  # every sixth layer of Gemma 3 is another one
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        **more,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # norms and biases too: ones and zeros would hide a mistake
                weight.add_(torch.randn_like(weight) * (0.05 if "norm" in name else 0.3))
    model.save_pretrained(folder)


def _byte_level(kind: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt-2")
    pattern = _LLAMA_3 if kind == "llama-bpe" else _LLAMA_3.replace("{1,3}", "")
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    words.pre_tokenizer = byte_level if kind == "gpt-2" else pre_tokenizers.Sequence([split, byte_level])
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "<|stop|>", "<|turn|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|begin|>", eos_token="<|stop|>")  # noqa: S106


def _pieces() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))  # noqa: S106
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[
            "<s>",
            "</s>",
            "<unk>",
            "<|im_start|>",
            "<|im_end|>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
        ],
        show_progress=False,
    )
    words.train_from_iterator((f"▁{word}" for text in _sentences() for word in text.split(" ")), trainer)
    plain = json.loads(words.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    words = Tokenizer.from_str(json.dumps(plain))
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")  # noqa: S106


def _sentences() -> list[str]:
    return [message["content"] for row in arithmetic_rows(200) for message in row["messages"]]


def compare_with_llama_cpp(folder: Path, kind: str, types: list[str]) -> dict[str, Any]:
    """Write a family's tiny model and its files, and return what both programs make of the texts: tokens, and what follows them greedily."""
    model = folder / kind
    write_family(model, kind)
    answer: dict[str, Any] = {"transformers": _by_transformers(model)}
    for stored in map(GgufType, types):
        file = folder / gguf_name(kind, stored)
        write_gguf(model, file, stored, name=kind, base="org/base")
        answer[stored.value] = _by_llama_cpp(file, [each["tokens"] for each in answer["transformers"]])
    return answer


def _by_transformers(model: Path) -> list[dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    answers = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        made = loaded.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=[1],
            return_dict_in_generate=True,
            output_scores=True,
        )
        continued = made.sequences[0, tokens.shape[1] :].tolist()
        answers.append(
            {"tokens": tokens[0].tolist(), "continued": continued, "near": [_near(scores[0]) for scores in made.scores]}
        )
    return answers


def _near(scores: Any) -> list[int]:
    """Return the tokens that are as good as the best one."""
    finite = scores[scores.isfinite()]
    best, spread = finite.max(), finite.max() - finite.min()
    near: list[int] = (scores >= best - TIE * spread).nonzero().flatten().tolist()
    return near


def _by_llama_cpp(file: Path, prompts: list[list[int]]) -> list[dict[str, Any]]:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx = 256
    settings.cpuparams.n_threads = 1
    settings.warmup = False
    server = xllamacpp.Server(settings)
    address = server.listening_address

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - a server of our own
            f"{address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            read: dict[str, Any] = json.load(response)
            return read

    answers = []
    for text, prompt in zip(TEXTS, prompts, strict=True):
        tokens = ask("tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        body = {
            "prompt": prompt,
            "n_predict": NEW_TOKENS,
            "temperature": 0,
            "ignore_eos": True,  # it never chooses the end token: transformers is told the same
            "return_tokens": True,
            "cache_prompt": False,
        }
        answers.append({"tokens": tokens, "continued": ask("completion", body)["tokens"]})
    return answers


def write_file(folder: Path, kind: str, stored: str) -> None:
    """Write a family's tiny model and one of its files."""
    write_family(folder / kind, kind)
    file = folder / gguf_name(kind, GgufType(stored))
    write_gguf(folder / kind, file, GgufType(stored), name=kind, base="org/base")


def check_file(folder: Path, kind: str, stored: str) -> str | None:
    """Return what is wrong with a file, None when nothing is."""
    try:
        check_gguf(folder / kind, folder / gguf_name(kind, GgufType(stored)))
    except TrainerFailure as failure:
        return str(failure)
    return None
