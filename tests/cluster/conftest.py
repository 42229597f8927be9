"""What the cluster tests stand on, started once per run and only when a test asks for it.

    control_plane  an API server with its controllers; no root, 5 s
    gpu_control_plane  the same with FineTuneJobs and nodes of GPUs that exist in the API only
    node_cluster   the same with a real node (root); one per machine
    images         the project's images, built and loaded when one is first named: images.operator, .inspect, .trainer
    s3_server      an S3 server that pods reach
    prometheus     a Prometheus that finds annotated pods of node_cluster
    helm           Helm 4 on node_cluster
    team_cluster   node_cluster with the operator installed and a namespace of a team
    undisturbed    the main job of the end-to-end tests, undisturbed, at its end
    interrupted    the same, suspended in mid-training, with its model in a claim
    namespace      a fresh namespace on node_cluster, deleted after the test

Everything lies in build/test-cluster/run-PID, logs too. `make test-cluster` and the next run stop and delete what a run
that has ended left there.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from testbed import image_build, image_store
from testbed.control_plane import ControlPlane
from testbed.diagnosis import write_diagnosis
from testbed.fake_nodes import add_fake_nodes
from testbed.helm import Helm
from testbed.installation import Inputs, image_values, install, make_inputs, upload
from testbed.main_job import CLAIM, NAMESPACE, Story, interrupt, main_manifest, watch_to_the_end
from testbed.model_volumes import claim, shared_folder
from testbed.node import NodeCluster
from testbed.operator_process import install_crd
from testbed.prometheus import Prometheus
from testbed.runs import sweep
from testbed.s3 import S3Server

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "build" / "test-cluster"
STATE = RUNS / f"run-{os.getpid()}"
NODE_FOLDER = "node-models"
"""Below the cluster's folder: where the installation allows jobs to keep models (model.cache.node)."""
STARTED: list[Path] = []
NUMBERS = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is a cluster test, and may be the one that first builds an image; those on a node are one half of `make test`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")
            if "node_cluster" in getattr(item, "fixturenames", ()):
                item.add_marker("node")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(1800))
    items.sort(key=lambda item: item.path != HERE / "test_infrastructure.py")  # the ground first


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """When a test on the node fails, keep what the cluster looked like beside the logs."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("node_cluster")
    if report.failed and cluster is not None:
        write_diagnosis(cluster, cluster.directory / "logs" / f"{item.name}.{report.when}.txt")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After a failure, say where the logs of the programs and the state of the cluster are."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        for directory in STARTED:
            terminalreporter.write_line(f"logs of the cluster's programs: {directory / 'logs'}")


def fresh(name: str) -> Path:
    """A folder for one cluster of this run, after sweeping away what runs that have ended left."""
    sweep(RUNS)
    STARTED.append(STATE / name)
    return STATE / name


@pytest.fixture(scope="session")
def gpu_control_plane(control_plane: ControlPlane) -> ControlPlane:
    """The same with FineTuneJobs and four nodes of 8 GPUs that exist in the API only."""
    install_crd(control_plane)
    add_fake_nodes(control_plane, 4)
    return control_plane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """An API server with its controllers, on the loopback address."""
    cluster = ControlPlane(fresh("control-plane"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[NodeCluster]:
    """A cluster with one real node that advertises 8 GPUs."""
    cluster = NodeCluster(fresh("node"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def s3_server(node_cluster: NodeCluster) -> Iterator[S3Server]:
    """An S3 server on the bridge's address; each test makes its own bucket."""
    server = S3Server(node_cluster.directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def prometheus(node_cluster: NodeCluster) -> Iterator[Prometheus]:
    """A Prometheus that samples annotated pods every second."""
    server = Prometheus(node_cluster.directory, node_cluster.kubeconfig)
    server.start()
    yield server
    server.stop()


class Images:
    """The full names of the project's images; naming one for the first time builds and loads it when it is not up to date.

    A name holds for the whole run, so that someone who edits the code meanwhile does not change what is tested.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, str] = {}

    @property
    def operator(self) -> str:
        """The operator's image."""
        return self["operator"]

    @property
    def inspect(self) -> str:
        """The inspection's image."""
        return self["inspect"]

    @property
    def trainer(self) -> str:
        """The trainer's image."""
        return self["trainer"]

    def __getitem__(self, name: str) -> str:
        if name not in self._loaded:
            reference = image_build.build(name)[name]
            image_store.load(reference)
            self._loaded[name] = reference
        return self._loaded[name]


@pytest.fixture(scope="session")
def images(node_cluster: NodeCluster) -> Images:
    """The project's images on the node."""
    return Images()


@pytest.fixture(scope="session")
def helm(node_cluster: NodeCluster) -> Helm:
    """Helm 4 on the node's cluster."""
    return Helm(node_cluster.kubeconfig, node_cluster.directory)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Inputs:
    """Model and rows of the main job, in the bucket."""
    made = make_inputs(tmp_path_factory.mktemp("inputs"))
    upload(s3_server, made)
    return made


@pytest.fixture(scope="session")
def team_cluster(
    node_cluster: NodeCluster, images: Images, helm: Helm, s3_server: S3Server, prometheus: Prometheus, inputs: Inputs
) -> Iterator[NodeCluster]:
    """The node's cluster with the operator installed, and a namespace of a careful administrator for the jobs."""
    values = image_values(images.operator, images.inspect, images.trainer)
    install(helm, {**values, "modelCache": {"nodePath": str(shared_folder(node_cluster.directory / NODE_FOLDER))}})
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    node_cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    node_cluster.apply(s3_server.secret("s3-credentials", NAMESPACE))
    claim(node_cluster, CLAIM, NAMESPACE, shared_folder(node_cluster.directory / CLAIM))
    yield node_cluster
    node_cluster.kubectl("delete", "ftj", "--all", "--namespace", NAMESPACE)


@pytest.fixture(scope="session")
def undisturbed(team_cluster: NodeCluster) -> Story:
    """The main job, undisturbed: what every disturbed one is compared with."""
    return watch_to_the_end(team_cluster, main_manifest())


@pytest.fixture(scope="session")
def interrupted(team_cluster: NodeCluster) -> Story:
    """A job during which the operator was killed and that was suspended, the first one that keeps its model in the claim."""
    return interrupt(team_cluster, "interrupted")


@pytest.fixture
def namespace(node_cluster: NodeCluster) -> Iterator[str]:
    """A namespace that allows only restricted pods, as a careful administrator makes it."""
    name = f"test-{next(NUMBERS)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    node_cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    node_cluster.kubectl("delete", "namespace", name, "--wait=false")
