"""Serving an aiohttp app inside the operator's own event loop: no access log (its lines would hold user data), prompt end."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

SHUTDOWN_SECONDS: Final = 5.0


@asynccontextmanager
async def listening(
    app: web.Application, port: int, *, tls: ssl.SSLContext | None = None, host: str | None = None
) -> AsyncIterator[int]:
    """Serve `app` (on all addresses without `host`) while the context lasts; yield the port, which matters for port 0.

    Requests under way at the end get `SHUTDOWN_SECONDS`.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
