"""What versions of training software do that changes memory: facts read in their source. The defaults are what this project's trainer runs.

Published measurements were made with other programs, and users compare plans with what they saw there; so the estimator can say both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Software:
    """Habits of a training program and of the versions below it."""

    fused_norms: bool = False
    """RMS norms are one kernel that keeps its input and one float32 per token (Liger, FOAK, Unsloth), no float32 copies."""
    repeats_keys: bool = False
    """Keys and values are repeated for every query head before attention although no mask is given (transformers < 4.48, litgpt)."""
    float32_norms: bool = False
    """Norm weights are float32 in a bfloat16 model, so that outputs of frozen linears and the residual stream are float32 (TRL 0.11 with
    bitsandbytes)."""
    quantized_inputs_kept: bool = False
    """Frozen 4-bit linears keep their input, needlessly and as an attribute of the autograd node, which torch frees with the graph only
    (bitsandbytes < 0.43.2, MatMul4Bit: ctx.tensors; pull request 1270)."""
    quantizes_head: bool = False
    """The output head is a 4-bit linear as well, widened whole for every chunk of logits (Lightning's BitsandbytesPrecision replaces every
    torch.nn.Linear)."""
    widens_in_half: bool = False
    """4-bit weights were quantised from float16, so that they are widened to that and then cast: a second copy for a moment (Lightning's
    BitsandbytesPrecision.quantize)."""
    keeps_graph: bool = False
    """The training loop's variables `loss` and `logits` keep the graph of one micro-batch, and what its nodes hold, until those of the next
    are made (litgpt). False as well where no batch follows another of full length."""
    holds_logits: bool = False
    """The model's output, logits included, stays alive during the backward pass."""
    shifts_logits: bool = False
    """The loss copies the logits without the last token (transformers < 4.49)."""
    keeps_narrow_logits: bool = False
    """Beside the float32 logits and that copy of them the model still has the compute type's, because a function of its own widens them
    (transformers 4.46 to 4.48, loss_utils.py, ForCausalLMLoss; before, the model put the wide ones in their place)."""
    unwidened_logits: bool = False
    """The model computes its loss in the type of its logits, and so in bfloat16 without autocast (GPT-BigCode in transformers < 4.49)."""
    returns_cache: bool = False
    """Under checkpointing too the model returns keys and values of every layer, as parts of the joined projection's output, which they keep
    until the loss is there (GPT-BigCode in transformers 4.48 to 4.50, whose use_cache stays on; tests/memory/test_losses_of_programs.py)."""
    narrow_loss: bool = False
    """Under autocast the model's loss reads logits in the compute type. torch's cross_entropy hands their own type to log_softmax, which
    autocast respects (ATen/native/LossNLL.cpp, cross_entropy_loss; autocast_mode.h, set_opt_dtype): 2 bytes of log-softmax stay, 4 of the
    copy that nll_loss reads, and 4 of the logits that accelerate's wrapper returns; traced with torch 2.13."""
    empties_cache: bool = False
    """The allocator's cache is emptied every few steps, so that the longest step's reserved memory is what one step makes of nothing (PEFT's
    method_comparison, run.py)."""
    whole_updates: bool = False
    """An adapter multiplies its input with a whole update of the weight, made anew in every forward pass and kept for the input's gradient."""
    frozen_inputs: bool = False
    """The factor that reads an adapter's input is frozen, or only pools it, so that the input is not kept (VeRA, TinyLoRA, LoRA-FA)."""
    normalises_head: bool = False
    """The head's weight is normalised in every forward pass, in float32 under autocast (Baichuan 2, modeling_baichuan.py, NormHead)."""
    keeps_compute_logits: bool = False
    """The loss is computed on the compute type's logits without a float32 copy: 2 bytes of logits and 2 of log-softmax stay (litgpt)."""
    frozen_gradients: bool = False
    """FSDP 1 with frozen and trained weights in one flat parameter: gradients are as large as if nothing were frozen
    (torch.distributed.fsdp, note on parameter freezing)."""
    reentrant_checkpoints: bool = False
    """Layers are computed again by torch's reentrant checkpoint (transformers < 5 unless told otherwise). It holds a layer's output while that
    layer runs backwards (tests/memory/test_other_programs.py). Under FSDP 1 a frozen layer then
    keeps its input and that input's gradient until the end of backward: the hook that reshards it holds the autograd node
    (torch.distributed.fsdp._runtime_utils, _register_post_backward_reshard_only_hook; tests/memory/test_states_sharded.py)."""
    padded_share: float = 0.0
    """Share of the outputs of a joined projection that carry adapters, where their sum is copied into the whole width and kept (litgpt 0.4,
    LoRAQKVLinear.zero_pad); 0 where nothing is padded."""
    trained_norms: bool = False
    """Norms are trained beside adapters, so that they keep what their weight multiplies (litgpt/adapter_v2.py, adapter_filter)."""
    attends_prefix: bool = False
    """Queries attend to a learned prefix as well, in an attention of its own whose output is scaled and added (litgpt/adapter.py)."""
    bare_layers: int = 0
    """First layers without an adapter in a frozen model, which no backward pass reaches (litgpt/adapter.py, adapter_start_layer)."""
    saves_products: bool = False
    """Checkpointing keeps attention and every second matrix product of a layer (torchtitan, parallelize_llama.py, `_save_list`)."""
    checkpointed_every: int = 1
    """Only every so many layers are computed again (torchtitan: selective by layer)."""
    steps_in_backward: bool = False
    """Every weight is stepped and its gradient freed as soon as that exists (torchtune, training/memory.py,
    register_optim_in_bwd_hooks)."""
    offloads_activations: bool = False
    """What checkpointing keeps waits in host memory (torchtune, training/_activation_offloading.py)."""
    compiled_loss: bool = False
    """torch.compile makes one kernel of cast and loss, which keeps what it was given and no float32 copy."""
    scaled_outputs: bool = False
    """Every linear's output is multiplied by a trained vector and so kept (litgpt/adapter_v2.py, adapter_scale)."""


OWN_SOFTWARE: Final = Software()
"""What the trainer of this project runs (requirements/)."""
