#!/usr/bin/env python3
"""A real Kubernetes cluster on one Linux machine, from Go modules and Debian packages alone.

    cluster.py build                     compile the programs (once; about 15 min on 2 cores, then cached)
    cluster.py up DIR                    etcd, API server, controller manager, scheduler; kubeconfig in DIR
    cluster.py up DIR --node             plus containerd, a kubelet, kube-proxy and CoreDNS (root)
    cluster.py up DIR --node --services  plus an S3 server and a Prometheus
    cluster.py up DIR --fake-nodes 1000  plus KWOK and that many fake nodes of 8 GPUs
    cluster.py images                    build the project's images, and load them into the node where one runs (root)
    cluster.py programs                  what the cluster tests need but the images: packages, compiled programs (root, Go)
    cluster.py prepare                   everything that the cluster tests need: packages, programs, images (root, Go)
    cluster.py down DIR                  stop what `up` started there; DIR keeps the logs
    cluster.py sweep DIR                 stop what test runs that have ended left below DIR, and delete all but their logs

Every program is the upstream one. State lives in DIR and under the user's cache folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from testbed import image_build, image_store, packages, tools
from testbed.control_plane import ControlPlane
from testbed.fake_nodes import add_fake_nodes
from testbed.node import NodeCluster, node_is_running
from testbed.processes import TestbedError
from testbed.runs import sweep


def up(directory: Path, *, node: bool, services: bool, fake_nodes: int) -> None:
    """Start a cluster, and print how to talk to it."""
    cluster = NodeCluster(directory) if node else ControlPlane(directory)
    cluster.require_stopped()  # before the `except` below, which would stop what runs there
    try:
        cluster.start()
        if fake_nodes:
            add_fake_nodes(cluster, fake_nodes)
        if services:
            start_services(cluster)
    except BaseException:
        cluster.stop()
        raise
    cluster.write_command("kubectl", tools.path("kubernetes"), "kubectl")
    cluster.write_command("helm", tools.path("helm"))
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export PATH={cluster.directory}/bin:$PATH")


def start_services(cluster: ControlPlane) -> None:
    """Start what a job needs beside Kubernetes, and print where it is."""
    from testbed.prometheus import Prometheus
    from testbed.s3 import S3Server  # boto3 is only in the development environment

    server = S3Server(cluster.directory, address=cluster.address)
    server.start()
    prometheus = Prometheus(cluster.directory, cluster.kubeconfig)
    prometheus.start()
    if not (server.folder / "data" / "models").exists():
        server.create_bucket("models")
    cluster.apply(server.secret("s3-credentials"))
    print(f"# S3: {server.endpoint}, bucket models, Secret s3-credentials; objects are files in {server.folder}/data")
    print(f"# Prometheus: {prometheus.url}")


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("tools", nargs="*", choices=[*tools.TOOLS, []], metavar="TOOL")
    starting = commands.add_parser("up")
    starting.add_argument("directory", type=Path)
    starting.add_argument("--node", action="store_true", help="one real node; needs root")
    starting.add_argument("--services", action="store_true", help="an S3 server and a Prometheus")
    starting.add_argument("--fake-nodes", type=int, default=0, metavar="N")
    commands.add_parser("programs")
    commands.add_parser("prepare")
    names = [*image_build.IMAGES, []]
    commands.add_parser("images").add_argument("images", nargs="*", choices=names, metavar="IMAGE")
    for name in ("down", "sweep"):
        commands.add_parser(name).add_argument("directory", type=Path)
    options = parser.parse_args()
    if options.command == "build":
        tools.ensure(*(options.tools or tools.TEST_CLUSTER))
    elif options.command == "up":
        up(options.directory, node=options.node, services=options.services, fake_nodes=options.fake_nodes)
    elif options.command == "down":
        NodeCluster(options.directory).stop()
    elif options.command == "sweep":
        sweep(options.directory)
    elif options.command in ("programs", "prepare"):
        packages.require_root("A test on a real node")
        packages.require(*packages.NODE, *packages.IMAGES, *packages.TRAINING)
        tools.ensure(*tools.TEST_CLUSTER)
        if options.command == "prepare":
            image_build.build(*image_build.IMAGES)
    else:
        for name, reference in image_build.build(*(options.images or image_build.IMAGES)).items():
            if node_is_running():
                image_store.load(reference)
            print(f"{name}: {reference}")


if __name__ == "__main__":
    try:
        main()
    except TestbedError as error:
        sys.exit(f"{error}")
