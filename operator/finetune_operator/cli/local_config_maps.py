"""Folders of this machine in the place of ConfigMaps: `finetune run --config-map NAME=FOLDER`, for functions of the user."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from finetune_operator.api.inspection import InputFile, InspectionReport
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.cli.manifest_file import UnreadableManifest


def add_config_map(parser: argparse.ArgumentParser) -> None:
    """Declare the option."""
    parser.add_argument(
        "--config-map",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="what ConfigMap NAME of the manifest (rewards.configMap) would have in a cluster: the files of this folder",
    )


def folders_of(given: Sequence[str], spec: FineTuneJobSpec) -> dict[str, Path]:
    """Return the folder of each ConfigMap that the job names.

    Raises:
        UnreadableManifest: one is missing, is no folder, or is none of the job's.
    """
    wanted = list(spec.training.online.config_maps) if spec.training.online else []
    folders = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not Path(path).is_dir():
            raise UnreadableManifest(f"--config-map {text}: write NAME=FOLDER, with a folder that is there")
        if name not in wanted:
            named = f"it names {', '.join(wanted)}" if wanted else "it names none"
            raise UnreadableManifest(f"--config-map {text}: the job names no ConfigMap {name} ({named}); remove it")
        folders[name] = Path(path).resolve()
    missing = [name for name in wanted if name not in folders]
    if missing:
        raise UnreadableManifest(
            f"rewards.configMap: {missing[0]}: there is no cluster here; name a folder with its keys as files: --config-map {missing[0]}=FOLDER"
        )
    return folders


def linked(folders: Mapping[str, Path], place: Path) -> Path:
    """Return `place` after it has been made a folder with a link to each of the folders, named like the ConfigMap."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name, folder in folders.items():
        (place / name).symlink_to(folder, target_is_directory=True)
    return place


def known_files(report: Path) -> dict[str, InputFile]:
    """Return the functions' files in the report of an earlier inspection; none where there is no such report."""
    try:
        before = InspectionReport.model_validate_json(report.read_bytes())
    except (OSError, ValidationError):
        return {}
    return {file.uri: file for file in before.reward_files}


def changed(before: Mapping[str, InputFile], now: Sequence[InputFile]) -> list[str]:
    """Return a sentence for each file that an earlier inspection of the run found with another content."""
    others = (file for file in now if file.uri in before and before[file.uri].etag != file.etag)
    return [
        f"{file.uri} is not what it was at the last start; steps from here on are rewarded by it" for file in others
    ]
