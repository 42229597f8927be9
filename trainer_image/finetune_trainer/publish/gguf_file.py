"""One GGUF file of a merged model: written tensor by tensor, then read back and compared. Memory is that of the largest tensor."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy
import torch
from safetensors import safe_open

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.gguf import GgufType
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.publish.gguf_layout import ROPE_FACTORS, Layout
from finetune_trainer.publish.gguf_tokenizer import UnsupportedTokenizer, Vocabulary, read_vocabulary

BLOCK: Final = 32
"""Weights of one q8_0 scale."""
ROWS: Final = 4096
"""Of a matrix at a time in float32, the type that gguf quantises from."""
_TYPES: Final = {GgufType.F16: gguf.GGMLQuantizationType.F16, GgufType.Q8_0: gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES: Final = {GgufType.F16: gguf.LlamaFileType.MOSTLY_F16, GgufType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0}


def write_gguf(model: Path, target: Path, kind: GgufType, *, name: str, base: str) -> None:
    """Write the model of a folder (safetensors, config.json, tokenizer.json) as a GGUF file, and check it.

    Raises:
        TrainerFailure: BAD_SPEC, when llama.cpp has no such tokenizer or tensor, or float16 cannot hold a weight.
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)
    layout, vocabulary = read_layout(model)
    writer = gguf.GGUFWriter(target, layout.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_FILE_TYPES[kind])
    layout.write_numbers(writer)
    _write_vocabulary(writer, vocabulary, model)
    source = _Tensors(model, layout)
    for written, tensor in source:
        stored = stored_type(tensor, kind)
        size = tensor.numel() // gguf.GGML_QUANT_SIZES[stored][0] * gguf.GGML_QUANT_SIZES[stored][1]
        writer.add_tensor_info(written, list(tensor.shape), numpy.dtype(numpy.float32), size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for written, tensor in source:
        writer.write_tensor_data(_quantized(written, tensor, stored_type(tensor, kind)))
    writer.close()
    check_gguf(model, target)


def read_layout(model: Path) -> tuple[Layout, Vocabulary]:
    """Return how a folder's model and tokenizer are kept in GGUF."""
    from transformers import AutoConfig

    layout = Layout(AutoConfig.from_pretrained(model, local_files_only=True).to_dict())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    try:
        return layout, read_vocabulary(tokenizer, int(layout.config["vocab_size"]))
    except UnsupportedTokenizer as error:
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"output.gguf: {error}; remove output.gguf and run the job again"
        ) from None


def check_gguf(model: Path, file: Path) -> None:
    """Compare every tensor of a file with the model's: half the last bit in float16, half a step of its block in q8_0."""
    layout, _ = read_layout(model)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    expected = dict.fromkeys(written for written, _ in _Tensors(model, layout))
    if found.keys() != expected.keys():
        raise TrainerFailure(
            ExitCode.BUG, f"{file.name} lacks or has too many of {sorted(found.keys() ^ expected.keys())[:5]}"
        )
    for written, tensor in _Tensors(model, layout):
        stored = found[written]
        for start in range(0, len(tensor), ROWS):
            rows = tensor[start : start + ROWS].float().numpy()
            read = gguf.quants.dequantize(stored.data[start : start + ROWS], stored.tensor_type).reshape(rows.shape)
            if not bool((numpy.abs(read - rows) <= _allowed(rows, stored.tensor_type)).all()):
                raise TrainerFailure(
                    ExitCode.BUG, f"{file.name}: {written} is not what was written; nothing was published"
                )


def _allowed(rows: Any, stored: gguf.GGMLQuantizationType) -> Any:
    if stored is gguf.GGMLQuantizationType.F32:
        return 0.0
    if stored is gguf.GGMLQuantizationType.F16:
        return numpy.abs(rows) * 2.0**-11 + 2.0**-25
    blocks = numpy.abs(rows).reshape(*rows.shape[:-1], -1, BLOCK).max(axis=-1, keepdims=True)
    # Half a step, and what its scale lost in float16, which is more for the smallest scales (subnormal).
    return numpy.broadcast_to(blocks * (0.5 / 127 + 2.0**-11) + 127 * 2.0**-25, (*blocks.shape[:-1], BLOCK)).reshape(
        rows.shape
    )


def stored_type(tensor: torch.Tensor, kind: GgufType) -> gguf.GGMLQuantizationType:
    """Return how a tensor is kept: vectors in float32; rows that are no whole number of blocks in float16."""
    if tensor.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    if kind is GgufType.Q8_0 and tensor.shape[-1] % BLOCK == 0:
        return gguf.GGMLQuantizationType.Q8_0
    return gguf.GGMLQuantizationType.F16


def _quantized(name: str, tensor: torch.Tensor, stored: gguf.GGMLQuantizationType) -> Any:
    parts = []
    for start in range(0, len(tensor), ROWS):
        rows = tensor[start : start + ROWS].float().numpy()
        if stored is gguf.GGMLQuantizationType.F16 and float(numpy.abs(rows).max()) > float(
            numpy.finfo(numpy.float16).max
        ):
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"output.gguf: {name} has weights beyond float16 (65,504); use gguf: [q8_0], or remove output.gguf",
            )
        parts.append(gguf.quants.quantize(rows, stored))
    return parts[0] if len(parts) == 1 else numpy.concatenate(parts)


class _Tensors:
    """The model's tensors in one order, each read when its turn comes."""

    def __init__(self, model: Path, layout: Layout) -> None:
        self._files = sorted(model.glob("model*.safetensors"))
        self._layout = layout

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        factors = self._layout.rope_factors()
        if factors is not None:
            yield ROPE_FACTORS, factors
        for path in self._files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is not a mapping
                    if name == "lm_head.weight" and self._layout.ties:
                        continue
                    yield self._layout.name(name), self._layout.changed(name, file.get_tensor(name))


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, model: Path) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.adds_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.adds_space_prefix)
    special = gguf.SpecialVocab(model, load_merges=vocabulary.model == "gpt2", n_vocab=len(vocabulary.tokens))
    # Where the tokenizer's post-processor adds none, llama.cpp's defaults for a split (llama-bpe: yes) would.
    special.add_special_token.setdefault("bos", False)
    special.add_special_token.setdefault("eos", False)
    special.add_to_gguf(writer, quiet=True)
