"""Reading a job's manifest from a file or standard input, with errors that name file, field and remedy."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TypeVar

import yaml

from finetune_operator.api.chains import with_models_at
from finetune_operator.api.constants import KIND
from finetune_operator.api.job import FineTuneJob, InvalidJob
from finetune_operator.api.spec import Dataset, FineTuneJobSpec

_Rows = TypeVar("_Rows", bound=Dataset)


class ManifestLoader(yaml.SafeLoader):
    """YAML as kubectl reads it: 2e-4 is a number there, and text for PyYAML, which wants 2.0e-4."""


ManifestLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


class UnreadableManifest(Exception):
    """The manifest cannot be used; the text says why and what to do."""


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read, without the number and the path that Python puts around it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def add_filename(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the manifest."""
    parser.add_argument(
        "-f", "--filename", required=True, metavar="FILE", help="the job's manifest; - reads standard input"
    )


def read_job(filename: str) -> FineTuneJob:
    """Return the one FineTuneJob in `filename` (`-` is standard input); other documents of the file are passed over.

    Raises:
        UnreadableManifest: no such file, no YAML, no or several jobs, or an invalid job.
    """
    try:
        text = sys.stdin.read() if filename == "-" else Path(filename).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableManifest(f"{filename}: cannot be read: {reason_of(error)}") from error
    try:
        documents = [document for document in yaml.load_all(text, ManifestLoader) if document is not None]
    except yaml.YAMLError as error:
        raise UnreadableManifest(f"{filename}: is not YAML: {error}") from error
    jobs = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    if len(jobs) != 1:
        kinds = sorted({str(document.get("kind")) for document in documents if isinstance(document, dict)})
        found = f" (it has: {', '.join(kinds)})" if kinds else ""
        raise UnreadableManifest(f"{filename}: holds {len(jobs)} documents of kind {KIND}{found}; give exactly one")
    try:
        return FineTuneJob.from_manifest(jobs[0])
    except InvalidJob as error:
        raise UnreadableManifest(f"{filename}: {error}") from error


def with_absolute_locations(spec: FineTuneJobSpec, base: Path) -> FineTuneJobSpec:
    """Return the spec with `file://relative/path` made absolute against `base`; other locations stay."""

    def absolute(uri: str) -> str:
        path = uri.removeprefix("file://")
        return uri if path == uri or path.startswith("/") else f"file://{base.resolve() / path}"

    def of_dataset(dataset: _Rows) -> _Rows:
        rows = dataset.evaluation
        own = rows and rows.model_copy(update={"uri": absolute(rows.uri)})
        model = dataset.filters.semantic
        model = model and model.model_copy(update={"uri": absolute(model.uri)})
        filters = dataset.filters.model_copy(update={"semantic": model})
        return dataset.model_copy(update={"uri": absolute(dataset.uri), "evaluation": own, "filters": filters})

    checkpoint = spec.checkpoint
    places = {"uri": checkpoint.uri, "resume_from": checkpoint.resume_from}
    checkpoint = checkpoint.model_copy(update={name: uri and absolute(uri) for name, uri in places.items()})
    others = {"entailment": spec.evaluation.entailment, "harness": spec.evaluation.harness}
    evaluation = spec.evaluation.model_copy(
        update={name: place and place.model_copy(update={"uri": absolute(place.uri)}) for name, place in others.items()}
    )
    return with_models_at(spec, absolute).model_copy(
        update={
            "evaluation": evaluation,
            "dataset": spec.dataset and of_dataset(spec.dataset),
            "datasets": spec.datasets and [of_dataset(each) for each in spec.datasets],
            "output": spec.output.model_copy(update={"uri": absolute(spec.output.uri)}),
            "checkpoint": checkpoint,
        }
    )
