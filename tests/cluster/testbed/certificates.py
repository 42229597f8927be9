"""The cluster's certificate authority, its server and administrator certificates, and the key of its service account tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from testbed.processes import run

NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def write_certificates(folder: Path, addresses: Iterable[str]) -> None:
    """Write every key and certificate once; a second start with the same folder keeps them, so old kubeconfigs stay valid."""
    if (folder / "admin.crt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority = "req -x509 -newkey rsa:2048 -nodes -days 365 -keyout ca.key -out ca.crt -subj /CN=cluster-ca"
    run("openssl", *authority.split(), folder=folder)
    run("openssl", "genrsa", "-out", "sa.key", "2048", folder=folder)
    run("openssl", "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub", folder=folder)
    names = [f"DNS:{name}" for name in NAMES] + [f"IP:{address}" for address in addresses]
    (folder / "extensions").write_text(f"subjectAltName={','.join(names)}\n")
    for name, subject in (("apiserver", "/CN=kube-apiserver"), ("admin", "/O=system:masters/CN=admin")):
        request = f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj {subject}"
        run("openssl", *request.split(), folder=folder)
        sign = f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out {name}.crt -extfile extensions"
        run("openssl", *sign.split(), folder=folder)
