"""A model's folder: which files belong to it, what they say without the weights, and how the whole of it gets to a local disk."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import JsonValue

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InputFile, Lineage, ModelFacts
from finetune_operator.api.spec import ModelSource
from finetune_trainer.cached_model import ModelVersion
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.lineage import result_manifest
from finetune_trainer.model_cache import ModelCache
from finetune_trainer.model_license import read_license
from finetune_trainer.model_types import BUILT_IN_MODEL_TYPES
from finetune_trainer.safetensors_headers import read_header
from finetune_trainer.sentence_pooling import read_pooling
from finetune_trainer.storage import Storage, StoredFile, open_storage
from finetune_trainer.storage_errors import StorageRefused
from finetune_trainer.storage_location import parse_location
from finetune_trainer.tokenizer_files import TokenizerFiles

CONFIG_FILE: Final = "config.json"
INDEX_FILE: Final = "model.safetensors.index.json"
WEIGHTS_FILE: Final = "model.safetensors"
PARALLEL_REQUESTS: Final = 8
LONGEST_TEXT: Final = 200
_LEFT_OUT: Final = frozenset({"id2label", "label2id"})
_SMALL_SUFFIXES: Final = frozenset({".json", ".jinja", ".txt", ".model"})


@dataclass(frozen=True)
class ModelFolder:
    """A model at one version."""

    storage: Storage
    config: dict[str, JsonValue]
    weights: tuple[StoredFile, ...]
    others: tuple[StoredFile, ...]
    """config.json and the index."""

    @property
    def revision(self) -> str:
        """The commit, where the model has one."""
        return str(getattr(self.storage, "revision", ""))


def open_model(source: ModelSource, field: str = "model") -> ModelFolder:
    """Return the model that `field` of a spec names, after the checks that need no weights: form of the files, quantisation, foreign code."""
    storage = open_storage(source.uri, revision=source.revision)
    if not storage.exists(CONFIG_FILE):
        raise _no_config(storage, field)
    config = _json_object(storage, CONFIG_FILE)
    _check_config(storage, config, source, field)
    names, index = _weight_names(storage)
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        weights = tuple(pool.map(lambda name: _weight_file(storage, name), names))
    others = tuple(storage.head(name) for name in (CONFIG_FILE, *index))
    return ModelFolder(storage, config, weights, others)


def describe_model(
    folder: ModelFolder, source: ModelSource, tokenizer: TokenizerFiles, lineage: Lineage | None = None
) -> ModelFacts:
    """Return what is known about a model from its config and the headers of its weights."""
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        headers = list(pool.map(lambda file: read_header(folder.storage, file), folder.weights))
    dtypes = sum((header.dtypes for header in headers), Counter[str]())
    _compare_with_index(folder, frozenset().union(*(header.names for header in headers)))
    return ModelFacts(
        uri=source.uri,
        revision=folder.revision,
        architecture=_architecture(folder.config),
        config=_shortened(folder.config),
        parameters=sum(header.elements for header in headers),
        weight_bytes=sum(header.stored_bytes for header in headers),
        dtypes=dict(sorted(dtypes.items())),
        files=tuple(
            InputFile(uri=file.uri, size=file.size, etag=file.etag)
            for file in (*folder.others, *folder.weights, *tokenizer.files)
        ),
        pooling=read_pooling(folder.storage),
        license=read_license(folder.storage),
        lineage=lineage,
        has_chat_template=tokenizer.template is not None,
    )


def local_model(source: ModelSource, target: Path, cache: ModelCache | None = None) -> Path:
    """Return a local folder with everything that from_pretrained needs: the model's own for file://, the cache's, or a download into `target`.

    Files that an earlier call has completed are not fetched again. One process per pod may call this at a time.
    """
    location = parse_location(source.uri)
    folder = open_model(source)
    if location.scheme == "file":
        return Path("/", location.path)
    wanted = [file for file in folder.storage.list() if _is_small_part(file.name, code=source.trust_remote_code)]
    wanted += folder.weights
    if cache is not None:
        return cache.fetch(folder.storage, ModelVersion(folder.storage.uri, folder.revision, tuple(wanted)))
    done_file = target / ".download.json"
    done: dict[str, list[object]] = json.loads(done_file.read_bytes()) if done_file.exists() else {}

    def fetch(file: StoredFile) -> tuple[str, list[object]]:
        state: list[object] = [folder.revision, file.etag, file.size]
        path = target / file.name
        if done.get(file.name) != state or not path.exists() or path.stat().st_size != file.size:
            folder.storage.download(file.name, path)
        return file.name, state

    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(PARALLEL_REQUESTS // 2) as pool:
        done.update(pool.map(fetch, wanted))
    done_file.write_text(json.dumps(done))
    return target


def _no_config(storage: Storage, field: str) -> Exception:
    if (manifest := result_manifest(storage)) is not None:
        return TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{storage.uri} is the result of job {manifest.namespace}/{manifest.job}, which published an adapter alone: train it again with a method "
            f"that can be merged and output.merge: true, or set {field}.uri to a whole model",
        )
    if storage.exists("adapter_config.json"):
        return TrainerFailure(
            ExitCode.BAD_DATA,
            f"{storage.uri} is an adapter, not a whole model; set {field}.uri to the merged model or to the base model",
        )
    return StorageRefused(
        f"{storage.uri}/{CONFIG_FILE}",
        "it is not there",
        f"{field}.uri must be a folder with config.json",
        missing=True,
    )


def _json_object(storage: Storage, name: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(storage.read(name))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TrainerFailure(ExitCode.BAD_DATA, f"{storage.uri}/{name} is not a JSON object; upload it again")
    return value


def _architecture(config: dict[str, JsonValue]) -> str:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return architectures[0]
    return ""


def _check_config(storage: Storage, config: dict[str, JsonValue], source: ModelSource, field: str) -> None:
    if not _architecture(config):
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{storage.uri}/{CONFIG_FILE} names no architecture; save the model with save_pretrained so that `architectures` is set",
        )
    quantization = config.get("quantization_config")
    if quantization:
        kind = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{storage.uri} is quantised ({kind or 'unknown method'}) and cannot be {'fine-tuned' if field == 'model' else 'learned from'}; "
            f"set {field}.uri to the 16-bit model (tuning.method: qlora quantises it while it trains)",
        )
    if config.get("auto_map") and not source.trust_remote_code and config.get("model_type") not in BUILT_IN_MODEL_TYPES:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{storage.uri} brings Python code of its own (auto_map in config.json); read it and set "
            f"{field}.trustRemoteCode: true, or choose another model",
        )


def _weight_names(storage: Storage) -> tuple[list[str], tuple[str, ...]]:
    """Return the weight files' names and, where there is one, the index's."""
    if storage.exists(INDEX_FILE):
        shards = _json_object(storage, INDEX_FILE).get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        if not names or any("/" in name or name.startswith(".") for name in names):
            raise TrainerFailure(
                ExitCode.BAD_DATA, f"{storage.uri}/{INDEX_FILE} has no usable weight_map; upload it again"
            )
        return names, (INDEX_FILE,)
    if storage.exists(WEIGHTS_FILE):
        return [WEIGHTS_FILE], ()
    present = {PurePosixPath(file.name).suffix for file in storage.list() if "/" not in file.name}
    found = next((suffix for suffix in (".gguf", ".bin", ".pt", ".pth") if suffix in present), None)
    raise TrainerFailure(
        ExitCode.BAD_DATA,
        f"{storage.uri} has no {WEIGHTS_FILE}{f', only {found} files' if found else ''}; save the model with "
        "save_pretrained, which writes safetensors",
    )


def _weight_file(storage: Storage, name: str) -> StoredFile:
    try:
        return storage.head(name)
    except StorageRefused as error:
        if not error.missing:
            raise
        raise TrainerFailure(
            ExitCode.BAD_DATA, f"{storage.uri}/{name} is not there, but {INDEX_FILE} names it; upload it"
        ) from None


def _compare_with_index(folder: ModelFolder, found: frozenset[str]) -> None:
    if not any(file.name == INDEX_FILE for file in folder.others):
        return
    weight_map = _json_object(folder.storage, INDEX_FILE).get("weight_map")
    missing = sorted(set(weight_map) - found) if isinstance(weight_map, dict) else []
    if missing:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{folder.storage.uri}: {len(missing)} tensors of {INDEX_FILE} are in none of its files, the first is "
            f"{missing[0][:LONGEST_TEXT]}; upload the model again",
        )


def _shortened(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a config without label maps and long texts, at every depth."""

    def keep(item: JsonValue) -> bool:
        return not (isinstance(item, str) and len(item) > LONGEST_TEXT)

    def shorten(item: JsonValue) -> JsonValue:
        if isinstance(item, dict):
            return {key: shorten(inner) for key, inner in item.items() if key not in _LEFT_OUT and keep(inner)}
        if isinstance(item, list):
            return [shorten(inner) for inner in item if keep(inner)]
        return item

    return {key: shorten(inner) for key, inner in value.items() if key not in _LEFT_OUT and keep(inner)}


def _is_small_part(name: str, *, code: bool) -> bool:
    path = PurePosixPath(name)
    if len(path.parts) > 1 or path.name == MANIFEST_FILE:
        return False
    return path.suffix in _SMALL_SUFFIXES or (code and path.suffix == ".py")
