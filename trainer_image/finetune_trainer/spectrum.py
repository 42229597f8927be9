"""Spectrum (arXiv 2406.06623): trains of each kind of linear layer those whose weights have the best signal-to-noise ratio.

The ratios are computed once in a job's life, by rank 0, and kept in the job's checkpoint folder: every attempt and rank trains the same modules, also
on another kind of GPU that rounds otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.collective import Collective
from finetune_trainer.storage import ObjectStorage, open_writable
from finetune_trainer.storage_errors import AlreadyExists

NORMAL_QUARTILES: Final = 1.349
"""Distance between the quartiles of a normal distribution, in standard deviations: some large singular values do not change the quartiles."""

Ratios = Mapping[str, tuple[str, float]]
"""Of every linear weight of the layers, by its parameter's name: its kind and its ratio."""


def spectrum_names(attempt: AttemptFile, layers: Mapping[str, Any], collective: Collective) -> tuple[str, ...]:
    """Return the names of the weights to train, of the linear modules `layers` of the model's layers. Collective; rank 0 has their weights."""
    import torch.distributed as dist

    names: tuple[str, ...] = ()
    if not dist.is_initialized() or dist.get_rank() == 0:
        ratios = _ratios_of_job(attempt, layers)
        names = best_of_each_kind(ratios, attempt.spec.tuning.top_fraction)
        print(f"spectrum: {len(names)} of {len(ratios)} linear weights are trained", flush=True)
    return collective.broadcast(names)


def best_of_each_kind(ratios: Ratios, share: float) -> tuple[str, ...]:
    """Return the names of the `share` with the highest ratios of each kind, at least one, rounded as the planner rounds."""
    kinds: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, (kind, ratio) in ratios.items():
        kinds[kind].append((-ratio, name))
    return tuple(
        sorted(name for found in kinds.values() for _, name in sorted(found)[: max(1, round(share * len(found)))])
    )


def signal_to_noise(weight: Any) -> float:
    """Return the sum of the singular values above the end of the noise, over that of the rest, over the largest one.

    The noise ends at sigma × (1 + sqrt(short side / long side)), the edge of Marchenko-Pastur's law; sigma is taken from the quartiles of the
    singular values, all as in the program of the paper's authors (github.com/cognitivecomputations/spectrum). The singular values are the roots
    of the Gram matrix' eigenvalues in float64: a product and an eigenvalue problem of the short side.
    """
    import torch

    matrix = weight.detach().to(torch.float64)
    short, long = sorted(matrix.shape)
    gram = matrix @ matrix.T if matrix.shape[0] == short else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    edge = float(quartiles[1] - quartiles[0]) / NORMAL_QUARTILES * (1 + math.sqrt(short / long))
    signal, noise = float(values[values > edge].sum()), float(values[values <= edge].sum())
    largest = float(values[-1])
    if largest == 0:
        return 0.0
    return signal / noise / largest if noise else math.inf


def _ratios_of_job(attempt: AttemptFile, layers: Mapping[str, Any]) -> Ratios:
    """Return the ratios that an earlier attempt wrote, or compute and write them."""
    storage = open_writable(attempt.checkpoint_uri)
    file = f"spectrum-{_model_digest(attempt)}.json"
    if storage.exists(file):
        return _read(storage, file)
    started = time.monotonic()
    ratios = {
        f"{name}.weight": (_kind(name, module), signal_to_noise(_on_device(module))) for name, module in layers.items()
    }
    print(f"spectrum: {len(ratios)} ratios computed in {time.monotonic() - started:.1f} s", flush=True)
    try:
        storage.put_small(file, json.dumps(ratios, indent=1, sort_keys=True).encode(), create_only=True)
    except AlreadyExists:
        return _read(storage, file)
    return ratios


def _read(storage: ObjectStorage, file: str) -> Ratios:
    return {name: (kind, ratio) for name, (kind, ratio) in json.loads(storage.read(file)).items()}


def _kind(name: str, module: Any) -> str:
    """Modules of one name and shape are compared; a dense layer's MLP is not measured against an expert's."""
    return f"{name.rpartition('.')[2]} {'×'.join(map(str, module.weight.shape))}"


def _on_device(module: Any) -> Any:
    import torch

    return module.weight.detach().to("cuda" if torch.cuda.is_available() else "cpu")


def _model_digest(attempt: AttemptFile) -> str:
    model = attempt.inspection.model
    identity: Sequence[object] = (
        model.uri,
        model.revision,
        sorted((file.uri, file.size, file.etag) for file in model.files),
    )
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
