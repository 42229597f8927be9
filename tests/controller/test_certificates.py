"""The server certificate follows its files, and a broken pair never takes the working one out of service."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from finetune_operator.controller.certificates import ServerCertificate
from finetune_operator.controller.listening import listening
from finetune_operator.controller.settings import InvalidSettings
from finetune_operator.testing import FakeClock, settle


def write_pair(folder: Path, name: str) -> Path:
    """Write a self-signed pair for localhost whose subject is `name`."""
    folder.mkdir(exist_ok=True)
    options = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -addext subjectAltName=DNS:localhost"
    )
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    subprocess.run(["openssl", *options.split(), "-subj", f"/CN={name}", *files], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pairs")
    return {name: write_pair(root / name, name) for name in ("old", "new")}


def served_name(certificate: ServerCertificate) -> str:
    """Shake hands in memory and return the subject of the certificate that was shown."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return "new" if b"new" in shown else "old"


async def test_an_app_is_served_over_tls(pairs: dict[str, Path]) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    trust = ssl.create_default_context(cafile=str(pairs["old"] / "tls.crt"))
    tls = ServerCertificate(pairs["old"]).context
    async with (
        listening(app, 0, tls=tls, host="127.0.0.1") as port,
        aiohttp.ClientSession() as session,
        session.get(f"https://localhost:{port}/", ssl=trust) as response,
    ):
        assert await response.text() == "hello"


def test_absent_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"TLS_DIRECTORY.*tls\.crt and .*tls\.key.*mount the TLS Secret"):
        ServerCertificate(tmp_path)


def test_a_renewed_pair_is_shown_to_new_connections(pairs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(pairs["old"], tmp_path / "tls")
    certificate = ServerCertificate(tmp_path / "tls")
    assert served_name(certificate) == "old"
    shutil.copytree(pairs["new"], tmp_path / "tls", dirs_exist_ok=True)
    assert certificate.reload_if_changed()
    assert served_name(certificate) == "new"


def test_unchanged_files_are_not_loaded_again(pairs: dict[str, Path]) -> None:
    assert not ServerCertificate(pairs["old"]).reload_if_changed()


def test_a_key_that_does_not_fit_leaves_the_old_pair_in_use_until_it_does(
    pairs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(pairs["old"], tmp_path / "tls")
    certificate = ServerCertificate(tmp_path / "tls")
    shutil.copy(pairs["new"] / "tls.crt", tmp_path / "tls" / "tls.crt")
    assert not certificate.reload_if_changed()
    assert served_name(certificate) == "old"
    shutil.copy(pairs["new"] / "tls.key", tmp_path / "tls" / "tls.key")
    assert certificate.reload_if_changed()


async def test_files_are_looked_at_for_ever(pairs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(pairs["old"], tmp_path / "tls")
    certificate = ServerCertificate(tmp_path / "tls")
    clock = FakeClock()
    following = asyncio.create_task(certificate.follow(clock))
    await settle()
    shutil.copytree(pairs["new"], tmp_path / "tls", dirs_exist_ok=True)
    await clock.advance(31)
    assert served_name(certificate) == "new"
    following.cancel()
