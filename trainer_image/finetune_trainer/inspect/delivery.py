"""Hands the report over: to the operator's progress server, or to a file in local runs."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from finetune_operator.api.constants import INSPECTION_REPORT_LIMIT_BYTES, TOKEN_PATH, progress_path
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, InspectionRequest, ProgressEndpoint
from finetune_trainer.failures import TrainerFailure

WAITS_SECONDS: Final = (0.5, 1, 2, 4, 8, 15, 15, 15)
"""Between the tries: a minute in all, longer than the operator takes to start again."""
TIMEOUT_SECONDS: Final = 20.0
_NEVER_ACCEPTED: Final = frozenset({400, 404, 405, 413, 422})


def to_json(report: InspectionReport) -> bytes:
    """Return the report as it travels, at most 256 KiB: what is too much is left out, rows' problems first, then the config's largest parts."""
    body = _encoded(report)
    if len(body) > INSPECTION_REPORT_LIMIT_BYTES:
        report = report.model_copy(update={"dataset": report.dataset.model_copy(update={"problems": ()})})
        body = _encoded(report)
    config = dict(report.model.config)
    while len(body) > INSPECTION_REPORT_LIMIT_BYTES and config:
        del config[max(config, key=lambda key: len(str(config[key])))]
        report = report.model_copy(update={"model": report.model.model_copy(update={"config": config})})
        body = _encoded(report)
    return body


def _encoded(report: InspectionReport) -> bytes:
    return report.model_dump_json(by_alias=True, exclude_none=True).encode()


def post_report(
    request: InspectionRequest,
    endpoint: ProgressEndpoint,
    body: bytes,
    *,
    token_path: Path = Path(TOKEN_PATH),
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """POST the report; what can pass is tried again for a minute, what cannot ends the inspection with its reason."""
    url = endpoint.url.rstrip("/") + progress_path(request.namespace, request.name, "inspection")
    problem = ""
    # The environment's proxies are for the outside world; the operator is a Service of this cluster.
    with httpx.Client(verify=_trust(endpoint), timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        for pause in (*WAITS_SECONDS, None):
            try:
                headers = {
                    "Authorization": f"Bearer {token_path.read_text().strip()}",  # read anew: the kubelet rotates it
                    "Content-Type": "application/json",
                }
                response = client.post(url, content=body, headers=headers)
                if response.is_success:
                    return
                problem = f"HTTP {response.status_code}"
                if response.status_code in _NEVER_ACCEPTED:
                    break
            except (httpx.HTTPError, OSError) as error:
                problem = type(error).__name__
            if pause is not None:
                wait(pause)
    raise TrainerFailure(
        ExitCode.BUG,
        f"the operator at {endpoint.url} does not take the report ({problem}); look at the operator's log and at the "
        "NetworkPolicy between this namespace and the operator's",
    )


def _trust(endpoint: ProgressEndpoint) -> ssl.SSLContext | bool:
    if not endpoint.url.startswith("https://"):
        return False
    try:
        return ssl.create_default_context(cadata=endpoint.certificate_authority)
    except ssl.SSLError:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            "progress.certificateAuthority of the request is not a PEM certificate; this is the operator's mistake",
        ) from None
