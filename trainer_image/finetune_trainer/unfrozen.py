"""Which of a model's own weights are trained by the methods that freeze the rest (`freeze` and `spectrum`)."""

from __future__ import annotations

from typing import Any, Final

from finetune_operator.api.compatibility import LABELLING
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.tuning import Freeze
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.spectrum import spectrum_names

LAST_NORM_NAMES: Final = frozenset({"norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm"})


def freeze_the_rest(attempt: AttemptFile, model: Any, collective: Collective) -> None:
    """Leave only what the job's method trains with gradients, as float32 masters. Collective."""
    tuning = attempt.spec.tuning
    if tuning.method is Method.FREEZE:
        trained = chosen_weights(model, tuning.unfrozen, keeps_head=attempt.spec.objective in LABELLING)
    elif tuning.method is Method.SPECTRUM:
        parameters = dict(model.named_parameters())
        trained = [parameters[name] for name in spectrum_names(attempt, linear_layers(model), collective)]
    else:
        return
    model.requires_grad_(False)
    for parameter in trained:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def chosen_weights(model: Any, freeze: Freeze, *, keeps_head: bool) -> list[Any]:
    """Return the parameters that `freeze` trains; with named modules the head only where it is new (`keeps_head`)."""
    if not freeze.modules:
        return [parameter for part in last_parts(model, freeze.layers) for parameter in part.parameters()]
    last = layers_of(model.base_model, model.config.get_text_config().num_hidden_layers)[-freeze.layers :]
    within = {module for layer in last for module in layer.modules()}
    chosen = [
        module.weight
        for name, module in linear_layers(model).items()
        if module in within and name.rpartition(".")[2] in freeze.modules
    ]
    return chosen + [parameter for part in (heads(model) if keeps_head else ()) for parameter in part.parameters()]


def linear_layers(model: Any) -> dict[str, Any]:
    """Return the linear modules of the model's layers by their names; experts that are stacked in one parameter are none."""
    import torch
    from transformers.pytorch_utils import Conv1D

    layers = set(layers_of(model.base_model, model.config.get_text_config().num_hidden_layers))
    return {
        f"{outer}.{inner}": module
        for outer, layer in model.named_modules()
        if layer in layers
        for inner, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }


def layers_of(backbone: Any, count: int) -> tuple[Any, ...]:
    """Return the transformer layers of a model without its head.

    Raises:
        TrainerFailure: it has no list of that many modules.
    """
    import torch

    lists = [module for module in backbone.modules() if isinstance(module, torch.nn.ModuleList)]
    found = next((tuple(each) for each in lists if len(each) == count), None)
    if found is None:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{type(backbone).__name__} has no list of {count} layers (config.json's number of hidden layers), so that its layers cannot be told "
            "apart; use tuning.method: full or lora",
        )
    return found


def last_parts(model: Any, trained_layers: int) -> list[Any]:
    """Return the last layers, the last norm and the head; a head that is tied to the embedding stays frozen with it."""
    depth = model.config.get_text_config().num_hidden_layers
    layers = layers_of(model.base_model, depth)
    parts = list(layers[len(layers) - trained_layers :])
    parts += [child for name, child in model.base_model.named_children() if name in LAST_NORM_NAMES]
    return parts + heads(model)


def heads(model: Any) -> list[Any]:
    """Return what a model has after its layers and their norm: a language model's head, or an encoder's pooler, dense layers and classifier."""
    if model.base_model is model:
        return []
    embedding = model.get_input_embeddings().weight
    beside = [child for child in model.children() if child is not model.base_model]
    parts = [part for part in (getattr(model.base_model, "pooler", None), *beside) if part is not None]
    return [part for part in parts if all(parameter is not embedding for parameter in part.parameters())]
