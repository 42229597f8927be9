"""Vectors of texts by a model of sentence-transformers, on CPUs: what rows are compared by. It needs torch, which only the trainer's image has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.row_models import LARGEST_EMBEDDER, SemanticDuplicates
from finetune_operator.api.spec import ModelSource
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.meaning import Embed
from finetune_trainer.model_files import open_model
from finetune_trainer.storage_location import parse_location

BATCH_ROWS: Final = 32
_PARTS: Final = frozenset({".json", ".txt", ".model", ".safetensors"})
"""Of a model's folder and the folders of its modules (1_Pooling, 2_Dense)."""


def embedder(settings: SemanticDuplicates, target: Path) -> Embed:
    """Return what makes vectors by the model that the spec names, after a download into `target` where it is not a folder here.

    Raises:
        TrainerFailure: it is too large, or sentence-transformers cannot load it.
    """
    folder = _local(ModelSource(uri=settings.uri, revision=settings.revision), target)
    try:
        model: Any = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"filters.semantic.uri: sentence-transformers cannot load {settings.uri} ({type(error).__name__}); name a model of theirs, or an encoder",
        ) from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        made = model.encode(
            list(texts),
            batch_size=BATCH_ROWS,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(made, np.float32)

    return embed


def _local(source: ModelSource, target: Path) -> Path:
    folder = open_model(source)
    files = [file for file in folder.storage.list() if _is_part(file.name)]
    size = sum(file.size for file in files)
    if size > LARGEST_EMBEDDER:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"filters.semantic.uri: {source.uri} has {size / 2**30:.1f} GiB, and the inspect pod has room for {LARGEST_EMBEDDER / 2**30:.0f}; "
            "name a smaller one",
        )
    location = parse_location(source.uri)
    if location.scheme == "file":
        return Path("/", location.path)
    for file in files:
        folder.storage.download(file.name, target / file.name)
    return target


def _is_part(name: str) -> bool:
    path = PurePosixPath(name)
    return len(path.parts) <= 2 and path.suffix in _PARTS
