"""A model's config and tensors in GGUF's words: the numbers of its architecture, names, and what is done to a tensor on the way.

llama.cpp's own converter is no package: its repository has it as a script, and what other people put on PyPI is not by its authors. The `gguf`
package is, and has the names, the writer and the quantisers; what is here is the part of the converter that knows the families of
`GGUF_ARCHITECTURES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import gguf
import torch

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.gguf import GGUF_ARCHITECTURES
from finetune_trainer.failures import TrainerFailure

Config = Mapping[str, Any]

ROPE_FACTORS: Final = "rope_freqs.weight"
_INTERLEAVED: Final = ("llama", "mistral")
"""Their rotary pairs are neighbours in GGUF and half a head apart in transformers."""


@dataclass(frozen=True)
class Layout:
    """How the model with this config is kept."""

    config: Config

    @property
    def kind(self) -> str:
        """Transformers' model type."""
        return str(self.config["model_type"])

    @property
    def architecture(self) -> str:
        """GGUF's name of the architecture."""
        return GGUF_ARCHITECTURES[self.kind]

    @property
    def ties(self) -> bool:
        """Whether the head is the embedding, kept once."""
        return bool(self.config.get("tie_word_embeddings")) or self.kind.startswith("gemma")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    def name(self, tensor: str) -> str:
        """Return GGUF's name of a tensor."""
        number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.architecture)
        names = gguf.get_tensor_name_map(number, int(self.config["num_hidden_layers"]))
        found = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"output.gguf: {self.architecture} in GGUF has no place for the tensor {tensor}; remove output.gguf and run the job again",
            )
        return str(found)

    def changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the values as GGUF has them."""
        if self.kind.startswith("gemma") and name.endswith("norm.weight"):
            return tensor.float() + 1.0  # Gemma multiplies by 1 + weight, llama.cpp by the weight
        heads = {"q_proj": self.config["num_attention_heads"], "k_proj": self.config["num_key_value_heads"]}
        count = heads.get(name.split(".")[-2])
        if self.kind in _INTERLEAVED and count is not None:
            halves = tensor.reshape(int(count), 2, tensor.shape[0] // int(count) // 2, *tensor.shape[1:])
            return halves.transpose(1, 2).reshape(tensor.shape)
        return tensor

    def rope_factors(self) -> torch.Tensor | None:
        """Return by what llama3's scaling divides each frequency (arXiv 2407.21783, section 3.4.3); None with another scaling."""
        rope = _rope(self.config)
        if rope.get("rope_type") != "llama3":
            return None
        low, high, factor = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
        context = float(rope["original_max_position_embeddings"])
        exponents = torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size
        turns = context * torch.pow(float(rope["rope_theta"]), -exponents) / (2 * math.pi)  # within the first context
        smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return (1 / ((1 - smooth) / factor + smooth)).float()

    def write_numbers(self, writer: gguf.GGUFWriter) -> None:
        """Write what llama.cpp reads of the architecture."""
        config = self.config
        context = int(config["max_position_embeddings"])
        if self.kind == "mistral" and config.get("sliding_window"):
            context = min(
                context, int(config["sliding_window"])
            )  # llama.cpp's llama sees everything: the same up to here
        writer.add_context_length(context)
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(int(config["num_attention_heads"]))
        writer.add_head_count_kv(int(config["num_key_value_heads"]))
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        if self.architecture == "llama":
            writer.add_rope_dimension_count(self.head_size)
        self._write_rope(writer)
        if self.kind in ("gemma2", "gemma3_text") and config.get("sliding_window"):
            writer.add_sliding_window(int(config["sliding_window"]))
        if (cap := config.get("attn_logit_softcapping")) is not None and self.kind == "gemma2":
            writer.add_attn_logit_softcapping(float(cap))
        if (cap := config.get("final_logit_softcapping")) is not None:
            writer.add_final_logit_softcapping(float(cap))

    def _write_rope(self, writer: gguf.GGUFWriter) -> None:
        rope = _rope(self.config)
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        local = (self.config.get("rope_parameters") or {}).get("sliding_attention")
        if local:
            writer.add_rope_freq_base_swa(float(local["rope_theta"]))
        kind = rope.get("rope_type", "default")
        if kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        if kind == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(float(rope["factor"]))
            writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))


def _rope(config: Config) -> Mapping[str, Any]:
    """Return how layers that see everything turn their positions, in transformers 5's words."""
    parameters: Mapping[str, Any] = config["rope_parameters"]
    whole: Mapping[str, Any] = parameters.get("full_attention", parameters)
    return whole
