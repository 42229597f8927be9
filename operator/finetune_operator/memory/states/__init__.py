"""Bytes of weights, gradients and optimizer state in one process: what stays from step to step, and what a strategy gathers and reduces."""

from finetune_operator.memory.states.load import host_load_bytes
from finetune_operator.memory.states.model_states import states_of
from finetune_operator.memory.states.quantization import NF4_BITS, base_weight_bytes
from finetune_operator.memory.states.states import States
from finetune_operator.memory.states.trainable import trainable_parameters

__all__ = ["NF4_BITS", "States", "base_weight_bytes", "host_load_bytes", "states_of", "trainable_parameters"]
