"""Settings from environment variables: each problem names its variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.controller.settings import InvalidSettings, OperatorSettings, RenderSource

LEAST = {
    "OPERATOR_NAMESPACE": "system",
    "INSPECT_IMAGE": "inspect:1",
    "TRAINER_IMAGE": "trainer:1",
    "PROGRESS_URL": "https://progress.system.svc:8443",
    "PROGRESS_CA_FILE": "/tls/ca.crt",
    "TLS_DIRECTORY": "/tls",
}


def test_the_least_environment_gives_the_defaults() -> None:
    settings = OperatorSettings.from_environment(LEAST)
    assert (settings.workers, settings.progress_port, settings.watch_namespaces) == (8, 8443, ())
    assert settings.lease.identity == settings.pod_name


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_variable_that_is_absent_or_empty_is_named(name: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{name}: Field required"):
        OperatorSettings.from_environment({**LEAST, name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "many"),
        ("WORKERS", "0"),
        ("PROGRESS_URL", "http://plain:8443"),
        ("PROGRESS_URL", "https://host/path"),
        ("LOG_LEVEL", "LOUD"),
        ("PROGRESS_PORT", "70000"),
        ("IMAGE_PULL_POLICY", "Sometimes"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{name}: "):
        OperatorSettings.from_environment({**LEAST, name: value})


def test_lists_are_separated_by_commas() -> None:
    settings = OperatorSettings.from_environment({**LEAST, "WATCH_NAMESPACES": "a, b,", "IMAGE_PULL_SECRETS": "s"})
    assert (settings.watch_namespaces, settings.image_pull_secrets) == (("a", "b"), ("s",))


def test_lease_durations_must_ascend() -> None:
    with pytest.raises(InvalidSettings, match="LEASE_DURATION_SECONDS must hold"):
        OperatorSettings.from_environment({**LEAST, "LEASE_DURATION_SECONDS": "5"})


def test_a_renewed_ca_bundle_is_rendered_into_the_next_children(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("one")
    source = RenderSource(OperatorSettings.from_environment({**LEAST, "PROGRESS_CA_FILE": str(bundle)}))
    assert source().progress.certificate_authority == "one"
    bundle.write_text("another")
    assert source().progress.certificate_authority == "another"


def test_a_ca_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = OperatorSettings.from_environment({**LEAST, "PROGRESS_CA_FILE": str(tmp_path / "absent.crt")})
    with pytest.raises(InvalidSettings, match=r"PROGRESS_CA_FILE: .*absent\.crt"):
        RenderSource(settings)
