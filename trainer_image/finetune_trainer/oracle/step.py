"""Runs a training step on fake tensors and measures it; the second of a run, since the optimizer's state exists only then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import DefaultDeviceType

from finetune_trainer.oracle.chunked_head import gpu_kernels_of_chunked_head
from finetune_trainer.oracle.gpu_operators import GpuOperators
from finetune_trainer.oracle.objectives import Batch, loss_of, make_batch
from finetune_trainer.oracle.optimizers import make_optimizer, optimizer_tensors
from finetune_trainer.oracle.peak_tracker import Category, PeakTracker, TracedPhase
from finetune_trainer.oracle.setting import TracedObjective, TraceSetting
from finetune_trainer.oracle.sharding import fake_processes, shard
from finetune_trainer.oracle.traced_model import TracedModel, build_model


@dataclass(frozen=True)
class PhaseTrace:
    """The highest moment of one phase (bytes, as torch.cuda.max_memory_allocated() counts)."""

    peak: int
    categories: dict[str, int]


@dataclass(frozen=True)
class Trace:
    """One traced step."""

    phases: dict[TracedPhase, PhaseTrace]
    at_last_hidden_state: dict[str, int]
    """Bytes per category when the layers' forward pass is over: of activations only what is kept is left."""
    trained_parameters: int
    parameters: int

    @property
    def peak(self) -> int:
        """Bytes at the highest moment of the step."""
        return max(phase.peak for phase in self.phases.values())

    @property
    def peak_phase(self) -> TracedPhase:
        """Where the highest moment lies; the first phase of several."""
        return max(self.phases, key=lambda phase: self.phases[phase].peak)


def trace(config: Mapping[str, Any], setting: TraceSetting) -> Trace:
    """Return the memory of one training step of the model that `config` (the content of config.json) describes, at its full depth.

    Raises:
        ValueError: the setting contradicts itself, or transformers does not know the architecture.
    """
    tracker = PeakTracker()
    with fake_processes(setting) as mesh, _tracing(tracker, setting):
        model = build_model(config, setting)
        if mesh is not None:
            shard(setting, model, mesh)
        reference = None
        if setting.objective is TracedObjective.DPO and not setting.has_adapters:
            reference = build_model(config, setting, is_reference=True)
        return _measure(tracker, setting, model, reference)


@contextlib.contextmanager
def _tracing(tracker: PeakTracker, setting: TraceSetting) -> Iterator[None]:
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        gpu_kernels_of_chunked_head(),
        # transformers cannot read positions on fake tensors and would take every row for several packed ones, which costs a mask.
        mock.patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None),
        # A checkpoint restores CUDA's autocast when it computes again: PEFT asks for it. Without a GPU torch would not.
        mock.patch.object(DefaultDeviceType, "_default_device_type", "cuda"),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch.object(torch.UntypedStorage, "resize_", tracker.resizing(torch.UntypedStorage.resize_)),
        tracker.mode(),
        GpuOperators(tracker, kernel_workspace=setting.kernel_workspace),
    ):
        yield


def _measure(tracker: PeakTracker, setting: TraceSetting, model: TracedModel, reference: TracedModel | None) -> Trace:
    module = model.module
    weights = [*module.parameters(), *module.buffers(), *model.quantised]
    if reference is not None:
        weights += [*reference.module.parameters(), *reference.module.buffers(), *reference.quantised]
    tracker.assign((weight for weight in weights if weight.device.type != "meta"), Category.WEIGHTS)
    optimizer = make_optimizer(setting, model.trained)
    batch = make_batch(setting, model)
    _follow_phases(tracker, model)
    _take_first_step(tracker, model, optimizer)
    if setting.accumulation > 1:
        _make_gradients(tracker, model)
    tracker.start_measuring()
    with _cuda_autocast_said(setting):
        _forward_and_backward(tracker, setting, model, reference, batch)
    gradients = [parameter.grad for parameter in model.trained if parameter.grad is not None]
    tracker.assign(gradients, Category.GRADIENTS)
    del gradients
    tracker.enter(TracedPhase.OPTIMIZER_STEP)
    optimizer.step()
    phases = {
        phase: PhaseTrace(peak.nbytes, {category.value: size for category, size in tracker.at_peak(phase).items()})
        for phase, peak in tracker.peaks.items()
    }
    return Trace(
        phases=phases,
        at_last_hidden_state={
            category.value: size for category, size in tracker.at(tracker.entered[TracedPhase.LOSS]).items()
        },
        trained_parameters=sum(parameter.numel() for parameter in model.trained),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def _take_first_step(tracker: PeakTracker, model: TracedModel, optimizer: torch.optim.Optimizer) -> None:
    """Bring the optimizer's state into being; forward and backward of that step would leave nothing behind."""
    _make_gradients(tracker, model)
    optimizer.step()
    optimizer.zero_grad()
    tracker.assign(optimizer_tensors(optimizer), Category.OPTIMIZER)


def _make_gradients(tracker: PeakTracker, model: TracedModel) -> None:
    """Give every trained parameter a gradient, as an earlier micro-batch leaves it."""
    for parameter in model.trained:
        parameter.grad = torch.empty_like(parameter)
        tracker.assign([parameter.grad], Category.GRADIENTS)


def _forward_and_backward(
    tracker: PeakTracker, setting: TraceSetting, model: TracedModel, reference: TracedModel | None, batch: Batch
) -> None:
    tracker.enter(TracedPhase.FORWARD)
    with _autocast(setting):
        loss = loss_of(setting, model, reference, batch)
    tracker.enter(TracedPhase.LOSS_BACKWARD)
    # Not loss.backward(): it would go through our torch function mode, which is then off when layers are computed again.
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@contextlib.contextmanager
def _autocast(setting: TraceSetting) -> Iterator[None]:
    """bfloat16 autocast, unless FSDP2 casts the weights itself."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting.autocasts and setting.processes == 1):
        yield


@contextlib.contextmanager
def _cuda_autocast_said(setting: TraceSetting) -> Iterator[None]:
    """Say that CUDA's autocast is on: PEFT asks `torch.is_autocast_enabled()`, which means CUDA's, also when layers are computed again.

    torch.utils.checkpoint would switch it off there, since autocast of a device that is missing is disabled; so it is told that the device
    is the CPU.
    """
    before, device = torch.is_autocast_enabled("cuda"), DefaultDeviceType.get_device_type()
    torch.set_autocast_enabled("cuda", setting.autocasts and setting.processes == 1)
    DefaultDeviceType.set_device_type("cpu")
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)
        DefaultDeviceType.set_device_type(device)


def _follow_phases(tracker: PeakTracker, model: TracedModel) -> None:
    """Let hooks tell the tracker where the step is: at the last hidden state, and at its gradient and that of the first layer's output."""

    def at_last_hidden_state(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple | list) else output.last_hidden_state
        if hidden.requires_grad:
            tracker.enter(TracedPhase.LOSS)
            hidden.register_hook(lambda _: tracker.enter(TracedPhase.LAYERS_BACKWARD))

    def after_first_layer(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple | list) else output
        if hidden.requires_grad and tracker.phase is TracedPhase.FORWARD:
            hidden.register_hook(lambda _: tracker.enter(TracedPhase.FIRST_LAYER_BACKWARD))

    model.backbone.register_forward_hook(at_last_hidden_state)
    model.layers[0].register_forward_hook(after_first_layer)
