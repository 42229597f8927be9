"""A real Kubernetes, an S3 server and a Prometheus on one machine, for the tests that no fake can replace.

Every program is the upstream one, compiled from Go modules; nothing needs Docker or an image registry.

    processes      start, stop and kill programs whose ids and logs lie in one folder
    packages       the Debian packages that a node and an image build need
    tools          the Go programs, compiled once into the user's cache folder
    certificates   the cluster's certificate authority and keys
    control_plane  etcd, API server, controller manager, scheduler
    node           containerd, kubelet, kube-proxy, CoreDNS
    fake_nodes     KWOK: thousands of nodes that only exist in the API
    pause          the sandbox image of every pod
    pods           restricted pods for the tests of all this
    buildah        the image builder, with a storage of its own
    base_image     a Debian image made without a registry
    image_build    the project's own images, from its own Dockerfiles
    image_store    images into the node's containerd, only the layers it lacks
    s3             versitygw
    prometheus     Prometheus with Kubernetes discovery
    helm           Helm 4
    diagnosis      what a cluster looked like when a test failed
    installation   the operator as a user installs it, and a job's inputs
    runs           end and delete what a test run left
"""
