"""Which of a model's parameters a job trains, and how."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from finetune_operator.api.methods import BASE_METHODS, LORA_METHODS, VIRTUAL_TOKEN_METHODS, Method
from finetune_operator.api.model import Rule, SpecModel, text_rule
from finetune_operator.api.words import Word

DEFAULT_VIRTUAL_TOKENS: Final = 20

ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class LoraVariant(Word):
    """Kinds of low-rank adapters."""

    LORA = "lora"
    RSLORA = "rslora"
    """Scaled by alpha / sqrt(rank) (arXiv 2312.03732)."""
    DORA = "dora"
    """A learned magnitude per output beside the direction (arXiv 2402.09353)."""


class QuantizationType(Word):
    """Four-bit number formats of bitsandbytes."""

    NF4 = "nf4"
    """Sixteen values at the quantiles of a normal distribution (arXiv 2305.14314, §3)."""
    FP4 = "fp4"
    """Floating point of four bits."""


class Lora(SpecModel):
    """Low-rank adapters (methods lora and qlora)."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of the adapters. Default 16.")
    alpha: int = Field(
        32,
        ge=1,
        le=4096,
        description="Scale: the adapter's output is multiplied by alpha / rank, with variant rslora by alpha / √rank. Default 32.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter, 0 to 1. Default 0.")
    targets: list[ModuleName] = Field(
        default_factory=lambda: ["all-linear"],
        min_length=1,
        max_length=50,
        description="Names of the modules that get adapters, such as q_proj. Default all-linear: every linear layer but the output head.",
    )
    variant: LoraVariant = Field(
        LoraVariant.LORA,
        description="lora; rslora, whose scale is right for ranks of 64 and more as well; dora, which trains a magnitude per output "
        "beside the adapter: often better at small ranks, slower, and with more memory in a step. Default lora.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!('all-linear' in self.targets) || self.targets.size() == 1",
            message="tuning.lora.targets: all-linear stands alone; remove the other names or remove all-linear",
            holds=lambda lora: "all-linear" not in lora.targets or len(lora.targets) == 1,
        ),
    )


class Quantization(SpecModel):
    """How the frozen weights beside the adapters are stored (method qlora)."""

    type: QuantizationType = Field(
        QuantizationType.NF4, description="nf4, or fp4, which loses more of normally distributed weights. Default nf4."
    )
    double_quantization: bool = Field(
        True,
        description="The scales are quantised as well: 4.127 instead of 4.5 bits per weight. Default true.",
    )


class Freeze(SpecModel):
    """Which part of the model is trained (method freeze)."""

    trainable: str = Field(
        "last:2",
        max_length=12,
        description="head: the output head and the norm before it. last:N: the last N layers as well. A head that is the input embedding "
        "too stays frozen. Default last:2.",
    )
    modules: list[ModuleName] = Field(
        default_factory=list,
        max_length=50,
        description="Train only the linear layers with these names in the last N layers, such as down_proj, and neither norm nor language head; "
        "a new head of an objective is trained always. Default empty: whole layers.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        text_rule(
            "trainable",
            "trainable",
            "^(head|last:[1-9][0-9]{0,3})$",
            "tuning.freeze.trainable: write head, or last:N with the number of the last layers, such as last:2",
        ),
        Rule(
            cel="self.modules.size() == 0 || self.trainable != 'head'",
            message="tuning.freeze.modules: names modules of layers; set trainable to last:N, or remove modules",
            holds=lambda freeze: not freeze.modules or freeze.layers > 0,
        ),
    )

    @property
    def layers(self) -> int:
        """How many layers are trained."""
        return 0 if self.trainable == "head" else int(self.trainable.removeprefix("last:"))


class Spectrum(SpecModel):
    """Which share of the model is trained (method spectrum, arXiv 2406.06623)."""

    top_fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of each kind of linear layer that is trained, those with the best signal-to-noise ratio. Default 0.25.",
    )


_LORA: Final = Lora()
_QUANTIZATION: Final = Quantization()
_FREEZE: Final = Freeze()
_SPECTRUM: Final = Spectrum()
_LORA_METHODS_CEL: Final = ", ".join(f"'{method}'" for method in sorted(LORA_METHODS))


def _only_with(field: str, method: Method) -> Rule:
    return Rule(
        cel=f"self.method == '{method}' || !has(self.{field})",
        message=f"tuning.{field} has no meaning with another tuning.method than {method}; remove it or use method: {method}",
        holds=lambda tuning: tuning.method is method or getattr(tuning, field) is None,
    )


class Tuning(SpecModel):
    """Which parameters are trained."""

    method: Method = Field(
        Method.LORA,
        description="full trains every weight, lora small adapters beside 16-bit weights, qlora the same beside 4-bit weights, freeze the last "
        "layers, spectrum the layers with the best signal-to-noise ratio; ia3 factors, prompt virtual tokens, prefix virtual keys and values. "
        "Default lora.",
    )
    lora: Lora | None = Field(None, description="Settings of the adapters; only with method lora or qlora.")
    quantization: Quantization | None = Field(
        None, description="How the frozen weights are stored; only with method qlora."
    )
    freeze: Freeze | None = Field(None, description="Which part is trained; only with method freeze.")
    spectrum: Spectrum | None = Field(None, description="Which share is trained; only with method spectrum.")
    virtual_tokens: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="How many virtual tokens are trained; only with method prompt or prefix. 20 where it is not set.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.method in [{_LORA_METHODS_CEL}] || !has(self.lora)",
            message="tuning.lora has no meaning with another tuning.method than lora and qlora; remove it or use method: lora",
            holds=lambda t: t.method in LORA_METHODS or t.lora is None,
        ),
        Rule(
            cel="self.method in ['prefix', 'prompt'] || !has(self.virtualTokens)",
            message="tuning.virtualTokens has no meaning with another tuning.method than prompt and prefix; remove it or use method: prompt",
            holds=lambda t: t.method in VIRTUAL_TOKEN_METHODS or t.virtual_tokens is None,
        ),
        _only_with("quantization", Method.QLORA),
        _only_with("freeze", Method.FREEZE),
        _only_with("spectrum", Method.SPECTRUM),
    )

    @property
    def adapter(self) -> Lora:
        """The adapters' settings, with defaults where the spec has none."""
        return self.lora or _LORA

    @property
    def storage(self) -> Quantization:
        """How qlora stores the frozen weights, with defaults where the spec has none."""
        return self.quantization or _QUANTIZATION

    @property
    def unfrozen(self) -> Freeze:
        """Which part freeze trains, with the default where the spec has none."""
        return self.freeze or _FREEZE

    @property
    def top_fraction(self) -> float:
        """Which share spectrum trains, with the default where the spec has none."""
        return (self.spectrum or _SPECTRUM).top_fraction

    @property
    def virtual_tokens_or_default(self) -> int:
        """How many virtual tokens prompt and prefix train."""
        return self.virtual_tokens or DEFAULT_VIRTUAL_TOKENS

    @property
    def merges(self) -> bool:
        """Whether what is trained can be put into the model's weights."""
        return self.method not in VIRTUAL_TOKEN_METHODS

    @property
    def trains_base(self) -> bool:
        """Whether the model's own weights change, so that a whole model is published."""
        return self.method in BASE_METHODS

    def with_defaults(self) -> Tuning:
        """Return the same with the blocks that the method has written out."""
        blocks: dict[str, SpecModel | int] = {}
        if self.method in LORA_METHODS:
            blocks["lora"] = self.adapter
        if self.method is Method.QLORA:
            blocks["quantization"] = self.storage
        if self.method is Method.FREEZE:
            blocks["freeze"] = self.unfrozen
        if self.method is Method.SPECTRUM:
            blocks["spectrum"] = self.spectrum or _SPECTRUM
        if self.method in VIRTUAL_TOKEN_METHODS:
            blocks["virtual_tokens"] = self.virtual_tokens_or_default
        return self.model_copy(update=blocks)
