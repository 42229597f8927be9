"""The files a run starts from: compared with what was inspected, and made local once per pod.

The plan holds only for the inputs that were inspected. A model or data set that changed since then ends the attempt before any work is done.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from finetune_operator.api.distillation import Teacher
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InitialAdapter, InputFile
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.spec import ModelSource
from finetune_trainer.attempt import Workplace
from finetune_trainer.dataset_files import find_files
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_cache import CacheOutcome, ModelCache
from finetune_trainer.model_files import local_model
from finetune_trainer.result_target import model_at
from finetune_trainer.rewards.config_maps import described, mounted_at, read_keys
from finetune_trainer.rewards.model_files import reward_source
from finetune_trainer.storage import Storage, open_storage, open_writable
from finetune_trainer.storage_errors import StorageRefused


def model_source(attempt: AttemptFile) -> ModelSource:
    """Return the model that was inspected, at that commit: the one that the spec names, or the base of the adapter there that is gone on with."""
    facts, spec = attempt.inspection.model, attempt.spec.model
    adapter = initial_adapter(attempt)
    template = spec.chat_template or (adapter.chat_template if adapter else None)
    found = {"uri": facts.uri, "revision": facts.revision or spec.revision, "chat_template": template}
    return spec.model_copy(update=found)


def initial_adapter(attempt: AttemptFile) -> InitialAdapter | None:
    """Return the adapter that training goes on with; None where it begins with new ones or has none."""
    lineage = attempt.inspection.model.lineage
    return lineage.adapter if lineage else None


def fetch_adapter(attempt: AttemptFile, workplace: Workplace) -> Path | None:
    """Return the local folder of that adapter, downloaded by the first rank of the pod."""
    adapter = initial_adapter(attempt)
    if adapter is None:
        return None
    folder = workplace.model.with_name("initial-adapter")
    storage = open_storage(adapter.uri)
    with only_once(folder) as needed:
        for file in adapter.files if needed else ():
            name = file.uri.rsplit("/", 1)[-1]
            storage.download(name, folder / name)
    return folder


def teacher_source(attempt: AttemptFile) -> ModelSource | None:
    """Return the teacher that was inspected, at that commit; None where the objective has none."""
    distill, facts = attempt.spec.training.distill, attempt.inspection.teacher
    if distill is None:
        return None
    source = source_of_teacher(distill.teacher)
    return source.model_copy(update={"revision": facts.revision or source.revision}) if facts else source


def source_of_teacher(teacher: Teacher) -> ModelSource:
    """Return where a teacher is, as models of specs are opened."""
    return ModelSource(uri=teacher.uri, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code)


def check_inputs(attempt: AttemptFile) -> None:
    """Raise when the model or the data set is not what was inspected, or another job's model has come to the output meanwhile."""
    model_at(open_writable(attempt.spec.output.uri), attempt.spec.output, attempt.uid)
    source = model_source(attempt)
    model = open_storage(source.uri, revision=source.revision)
    check_unchanged("the model", attempt.inspection.model.files, _look(model, attempt.inspection.model.files))
    if (adapter := initial_adapter(attempt)) is not None:
        check_unchanged("the adapter", adapter.files, _look(open_storage(adapter.uri), adapter.files))
    teacher, known = teacher_source(attempt), attempt.inspection.teacher
    if teacher is not None and known is not None:
        found = _look(open_storage(teacher.uri, revision=teacher.revision), known.files)
        check_unchanged("the teacher", known.files, found)
    for judge in attempt.inspection.reward_models:
        found = _look(open_storage(judge.uri, revision=judge.revision or "main"), judge.files)
        check_unchanged("the reward model", judge.files, found)
    facts = attempt.inspection.dataset
    datasets = attempt.spec.all_datasets
    check_unchanged("the data set", facts.files, _found(each.uri for each in datasets))
    if facts.evaluation is not None:
        own = _found(each.evaluation.uri for each in datasets if each.evaluation is not None)
        check_unchanged("the evaluation rows", facts.evaluation.files, own)


def _found(uris: Iterable[str]) -> Iterator[InputFile]:
    for uri in uris:
        yield from find_files(uri).inputs


def _look(storage: Storage, inspected: Iterable[InputFile]) -> Iterator[InputFile]:
    for file in inspected:
        try:
            found = storage.head(file.uri.rsplit("/", 1)[-1])
        except StorageRefused as error:
            if not error.missing:
                raise
            continue
        yield InputFile(uri=found.uri, size=found.size, etag=found.etag)


def check_unchanged(what: str, inspected: Iterable[InputFile], found: Iterable[InputFile]) -> None:
    """Raise when a file that was inspected is gone or another one now, or when there are more than were inspected."""
    before = {file.uri: file for file in inspected}
    now = {file.uri: file for file in found}
    for uri, file in before.items():
        current = now.get(uri)
        if current is None:
            raise TrainerFailure(ExitCode.INPUTS_CHANGED, f"{what} changed after the inspection: {uri} is gone")
        etags_differ = file.etag is not None and current.etag is not None and file.etag != current.etag
        if current.size != file.size or etags_differ:
            raise TrainerFailure(
                ExitCode.INPUTS_CHANGED,
                f"{what} changed after the inspection: {uri} has {current.size} bytes now, {file.size} then"
                + (", and another ETag" if etags_differ else ""),
            )
    added = sorted(now.keys() - before.keys())
    if added:
        raise TrainerFailure(ExitCode.INPUTS_CHANGED, f"{what} changed after the inspection: {added[0]} is new")


def _count_nothing(outcome: CacheOutcome) -> object:
    return None


class Beside(NamedTuple):
    """What a run loads beside its base model, in local folders."""

    adapter: Path | None
    """That training goes on with; None where the job has none."""
    teacher: Path | None
    """That is learned from; None where the job has none."""
    reward_models: tuple[Path, ...]
    """That judge answers, in order."""
    functions: dict[str, Path]
    """That judge answers, by the name of the ConfigMap they are in."""


def fetch_model(
    attempt: AttemptFile, workplace: Workplace, count: Callable[[CacheOutcome], object] = _count_nothing
) -> Path:
    """Return the base model's local folder, downloaded by the first rank of the pod (with a cache: by one of all pods) while the others wait.

    `count` is told what became of it in the cache.
    """
    return _local(model_source(attempt), workplace.model, workplace, count)


def fetch_inputs(
    attempt: AttemptFile, workplace: Workplace, count: Callable[[CacheOutcome], object]
) -> tuple[Path, Beside]:
    """Return the base model's folder and what else training needs, each as it was inspected, downloaded or cached alike."""
    return fetch_model(attempt, workplace, count), _fetch_beside(attempt, workplace, count)


def _fetch_beside(attempt: AttemptFile, workplace: Workplace, count: Callable[[CacheOutcome], object]) -> Beside:
    teacher = teacher_source(attempt)
    judges = [reward_source(facts.uri, facts.revision or "main") for facts in attempt.inspection.reward_models]
    return Beside(
        fetch_adapter(attempt, workplace),
        None if teacher is None else _local(teacher, workplace.model.with_name("teacher"), workplace, count),
        tuple(
            _local(judge, workplace.model.with_name(f"reward-model-{number}"), workplace, count)
            for number, judge in enumerate(judges)
        ),
        fetch_functions(attempt, workplace),
    )


def _local(source: ModelSource, folder: Path, workplace: Workplace, count: Callable[[CacheOutcome], object]) -> Path:
    cache = ModelCache(workplace.cache, count=count) if workplace.cache else None
    with locked(folder.with_name(f".{folder.name}.lock")):
        return local_model(source, folder, cache)


def fetch_functions(attempt: AttemptFile, workplace: Workplace) -> dict[str, Path]:
    """Return a local folder for each ConfigMap with functions of the user, its keys as they were inspected.

    Raises:
        TrainerFailure: they are not what was inspected any more.
    """
    online, inspected = attempt.spec.training.online, attempt.inspection.reward_files
    if online is None or not online.config_maps:
        return {}
    digest = hashlib.sha256("".join(file.model_dump_json() for file in inspected).encode()).hexdigest()[:16]
    folder = workplace.functions / digest
    with only_once(folder) as needed:
        if needed:
            found = {name: read_keys(name, mounted_at()) for name in online.config_maps}
            files = [file for name, keys in found.items() for file in described(name, keys)]
            check_unchanged("the rewards' functions", inspected, files)
            for name, keys in found.items():
                (folder / name).mkdir(exist_ok=True)
                for key, content in keys.items():
                    (folder / name / key).write_bytes(content)
    return {name: folder / name for name in online.config_maps}


def go_offline() -> None:
    """From here on no library asks a hub: all inputs are local. Not by environment, which would forbid the download of an hf:// model."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


@contextmanager
def only_once(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock and yield whether its content is still to be made; the other ranks of the pod wait here."""
    done = folder / ".complete"
    with locked(folder / ".lock"):
        needed = not done.exists()
        yield needed
        if needed:
            done.touch()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that all processes of the pod share; it is free again when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
