"""Functions of the user in mounted ConfigMaps: looked at by the inspection, and copied by every pod of an attempt, byte for byte as inspected.

The volumes are optional: with one that is missing the kubelet would leave a pod `ContainerCreating` and tell its Events alone, where here the
inspection ends with a sentence and is tried again. The kubelet also renews mounted keys while pods run: ranks import copies, so that no two of them
reward by different code.
"""

from __future__ import annotations

import ast
import hashlib
import os
import symtable
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_operator.api.constants import CONFIG_MAP_DIRECTORY, CONFIG_MAP_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InputFile
from finetune_operator.api.rewards import Reward
from finetune_trainer.failures import TrainerFailure

SIZE_LIMIT: Final = 1 << 20
"""Bytes that a ConfigMap can have; a folder of a local run has no more, so that the job works in a cluster too."""
_SCHEME: Final = "configmap:"

Keys = Mapping[str, bytes]
"""Content by key."""


def mounted_at(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that has a folder for each ConfigMap."""
    return Path(environment.get(CONFIG_MAP_VARIABLE, CONFIG_MAP_DIRECTORY))


def inspect_functions(rewards: Sequence[Reward], mounted: Path) -> tuple[InputFile, ...]:
    """Return the files of the ConfigMaps that functions among the rewards are in; nothing in them is run.

    Raises:
        TrainerFailure: one is not there, has not the module, or its module no such function; or two have modules of one name.
    """
    found: dict[str, Keys] = {}
    for reward in rewards:
        if reward.config_map is not None and reward.function is not None:
            keys = found.setdefault(reward.config_map, read_keys(reward.config_map, mounted))
            _check(reward.config_map, keys, reward.function)
    owners = defaultdict(list)
    for name, keys in found.items():
        for key in keys:
            owners[key].append(name)
    for key, names in owners.items():
        if len(names) > 1 and key.endswith(".py"):
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"rewards.configMap: {names[0]} and {names[1]} both have {key}, and Python finds one module of a name; rename one",
            )
    return tuple(file for name, keys in found.items() for file in described(name, keys))


def described(name: str, keys: Keys) -> Iterator[InputFile]:
    """Yield what tells whether the keys of ConfigMap `name` are still the same."""
    for key, content in keys.items():
        yield InputFile(uri=f"{_SCHEME}{name}/{key}", size=len(content), etag=hashlib.sha256(content).hexdigest())


def read_keys(name: str, mounted: Path) -> Keys:
    """Return what ConfigMap `name` has; nothing where there is none.

    Raises:
        TrainerFailure: it is a folder with more than a ConfigMap can hold.
    """
    folder = mounted / name
    if not folder.is_dir():
        return {}
    # The kubelet's own files begin with two dots, and keys are links to one of them, which it replaces as a whole.
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("..") and path.is_file())
    size = sum(path.stat().st_size for path in files)
    if size > SIZE_LIMIT:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"rewards.configMap: the folder for {name} has {size} bytes, and a ConfigMap has room for {SIZE_LIMIT}; give one with modules alone",
        )
    return {path.name: path.read_bytes() for path in files}


def _check(name: str, keys: Keys, function: str) -> None:
    module, _, attribute = function.partition(":")
    key = f"{module}.py"
    if not keys:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"rewards.function {function}: there is no ConfigMap {name} in the job's namespace, or it has no key; make it, such as by "
            f"kubectl create configmap {name} --from-file={key} (local runs: finetune run --config-map {name}=FOLDER)",
        )
    if key not in keys:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"rewards.function {function}: ConfigMap {name} has no key {key}, but {', '.join(list(keys)[:5])}; add it",
        )
    try:
        source = keys[key].decode()
        names = symtable.symtable(source, key, "exec")
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"rewards.function {function}: key {key} of ConfigMap {name} is no Python{line}: {getattr(error, 'msg', error)}",
        ) from None
    bound = {each.get_name() for each in names.get_symbols() if each.is_assigned() or each.is_imported()}
    if attribute not in bound and not _imports_all(source):
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"rewards.function {function}: key {key} of ConfigMap {name} has no {attribute}"
        )


def _imports_all(source: str) -> bool:
    """Whether names may come from elsewhere: from module import *."""
    return any(
        isinstance(node, ast.ImportFrom) and any(each.name == "*" for each in node.names)
        for node in ast.walk(ast.parse(source))
    )
