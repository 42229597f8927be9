"""The server certificate of a folder (a mounted Secret), loaded again when its files change.

cert-manager renews a certificate long before its end, and the kubelet then swaps the files under the running process.
Connections that are open keep theirs; new ones get the new one.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from finetune_operator.controller.clock import Clock
from finetune_operator.controller.settings import InvalidSettings

logger = logging.getLogger(__name__)

CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CHECK_SECONDS: Final = 30.0


class ServerCertificate:
    """A TLS context (1.2 or newer) that follows `tls.crt` and `tls.key` of a folder."""

    def __init__(self, directory: Path) -> None:
        """Load the pair.

        Raises:
            InvalidSettings: the files are absent or do not fit each other; the text names them.
        """
        self._certificate = directory / CERTIFICATE_FILE
        self._key = directory / KEY_FILE
        try:
            self._version = self._read_version()
            self.context: Final = self._load(_server_context())
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(
                f"TLS_DIRECTORY: cannot load the server certificate from {self._certificate} and {self._key}: {error}; "
                "mount the TLS Secret there (the chart does)"
            ) from error

    def reload_if_changed(self) -> bool:
        """Load the pair again if a file has changed; a broken or half-written pair leaves the old one in use."""
        try:
            version = self._read_version()
            if version == self._version:
                return False
            # Into a scratch context first: a key that does not fit would leave the live one with half of the pair.
            self._load(_server_context())
            self._load(self.context)
        except (OSError, ssl.SSLError) as error:
            logger.warning("the changed server certificate cannot be loaded, the old one stays in use: %s", error)
            return False
        self._version = version
        logger.info("server certificate loaded again")
        return True

    async def follow(self, clock: Clock) -> None:
        """Load changed files for ever."""
        while True:
            await clock.sleep(CHECK_SECONDS)
            self.reload_if_changed()  # two small files in memory (a Secret is a tmpfs): no thread needed

    def _read_version(self) -> tuple[bytes, bytes]:
        return self._certificate.read_bytes(), self._key.read_bytes()

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(self._certificate, self._key)
        return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
