"""How ranks in several pods find one another's network: the interface that leads out of the pod, unless the user names another one.

gloo takes the interface that the host's name resolves to, and NCCL any that is not the loopback: with a second network in the pod (Multus, RDMA)
the two may differ, and ranks wait for each other until the collective calls give up. InfiniBand, RoCE and EFA are the cluster's own matter: their
variables come by pod.env (docs/how-to/networks.md) and are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune_operator.api.plan import Plan

ROUTES: Final = Path("/proc/net/route")
COLLECTIVE_SECONDS: Final = 1800
"""After which NCCL and gloo give up a collective call. Hangs are noticed earlier (watchdog.py); this is the end of ranks whose watchdog hangs too."""
_GLOO, _NCCL, _NCCL_DEBUG = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"


def default_interface(routes: str) -> str | None:
    """Return the interface of the default route with the lowest metric in the text of /proc/net/route; None without one (IPv6 alone)."""
    rows = [line.split() for line in routes.splitlines()[1:]]
    leading_out = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    return min(leading_out)[1] if leading_out else None


def network_environment(plan: Plan, inherited: Mapping[str, str], interface: str | None) -> dict[str, str]:
    """Return the variables that NCCL and gloo need; those that the user or the pod has set are not among them."""
    if plan.processes == 1:
        return {}
    found = {_NCCL_DEBUG: "WARN"} if plan.accelerator == "gpu" else {}
    wanted = inherited.get(_NCCL, "")
    if wanted.startswith("=") and "," not in wanted:
        # An exact name, which holds for gloo as well; without the sign NCCL takes it for the beginning of one.
        found[_GLOO] = wanted[1:]
    elif plan.pods > 1 and interface is not None:
        found |= {_GLOO: interface, _NCCL: f"={interface}"}
    return {name: value for name, value in found.items() if name not in inherited}
