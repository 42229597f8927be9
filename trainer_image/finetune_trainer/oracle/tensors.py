"""A built model's parameters as the estimator counts tensors: by module, with what adapters and quantisation ask of them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import torch
from transformers.pytorch_utils import Conv1D

from finetune_operator.api.architecture_trace import TracedTensor


class ModelTensors:
    """The parameters of `module` (a model, or one layer of it), each told only once: what is shared belongs to the first that has it."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._owners = {
            id(parameter): (path, owner)
            for path, owner in module.named_modules()
            for parameter in owner.parameters(recurse=False)
        }
        self._embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
        head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        self._head = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        self._told: set[int] = set()

    def of(self, part: Any) -> tuple[TracedTensor, ...]:
        """Return the tensors of `part` that were not told before."""
        new = [(name, parameter) for name, parameter in part.named_parameters() if id(parameter) not in self._told]
        self._told |= {id(parameter) for _, parameter in new}
        counted = Counter(self._tensor(name, parameter) for name, parameter in new)
        return tuple(tensor.model_copy(update={"copies": copies}) for tensor, copies in counted.items())

    def outer(self) -> tuple[TracedTensor, ...]:
        """Return the tensors of the model that were not told before, the embedding of words first."""
        words = tuple(self._module.get_input_embeddings().weight.shape)
        return tuple(sorted(self.of(self._module), key=lambda each: each.kind != "embedding" or each.shape != words))

    def _tensor(self, name: str, parameter: Any) -> TracedTensor:
        path, owner = self._owners[id(parameter)]
        own = name.rpartition(".")[2]
        inputs = outputs = 0
        if own == "weight" and isinstance(owner, torch.nn.Linear) and id(parameter) not in self._head:
            inputs, outputs = owner.in_features, owner.out_features
        elif own == "weight" and isinstance(owner, Conv1D):
            inputs, outputs = owner.nx, owner.nf
        return TracedTensor(
            name=path.rpartition(".")[2] if own in ("weight", "bias") else own,
            kind=self._kind(parameter, owner),
            shape=tuple(parameter.shape),
            inputs=inputs,
            outputs=outputs,
            subclassed=inputs > 0 and isinstance(owner, torch.nn.Linear) and type(owner) is not torch.nn.Linear,
        )

    def _kind(self, parameter: Any, owner: Any) -> Literal["embedding", "head", "experts", "matrix", "vector"]:
        if id(parameter) in self._embeddings:
            return "embedding"
        if id(parameter) in self._head:
            return "head"
        if parameter.dim() == 3 and not isinstance(owner, torch.nn.Conv1d):
            return "experts"
        return "vector" if parameter.dim() < 2 else "matrix"
