"""ConfigMaps with functions of the user, as inspect and training pods mount them.

They are optional volumes: the inspection says which one is missing (finetune_trainer/rewards/config_maps.py), where the kubelet would only leave
the pod without a container.
"""

from __future__ import annotations

from typing import Any

from finetune_operator.api.constants import CONFIG_MAP_DIRECTORY
from finetune_operator.api.spec import FineTuneJobSpec


def config_map_volumes(spec: FineTuneJobSpec) -> tuple[dict[str, Any], ...]:
    """Return a volume for each of them."""
    return tuple(
        {"name": _volume(number), "configMap": {"name": name, "optional": True}} for number, name in _numbered(spec)
    )


def config_map_mounts(spec: FineTuneJobSpec) -> tuple[dict[str, Any], ...]:
    """Return where a container finds them."""
    return tuple(
        {"name": _volume(number), "mountPath": f"{CONFIG_MAP_DIRECTORY}/{name}", "readOnly": True}
        for number, name in _numbered(spec)
    )


def _numbered(spec: FineTuneJobSpec) -> list[tuple[int, str]]:
    return list(enumerate(spec.training.online.config_maps if spec.training.online else ()))


def _volume(number: int) -> str:
    return f"config-map-{number}"  # a ConfigMap's name may be longer than a volume's
