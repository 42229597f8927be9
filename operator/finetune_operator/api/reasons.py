"""The closed table of condition types and reasons: what users and programs may rely on.

A reason that is not in this table cannot be written (it is an enum), and a test compares the table with docs/reference/conditions.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ConditionType(StrEnum):
    """The condition types of a FineTuneJob, in the order of a job's way."""

    ACCEPTED = "Accepted"
    INSPECTED = "Inspected"
    PLANNED = "Planned"
    PODS_SCHEDULED = "PodsScheduled"
    RUNNING = "Running"
    PUBLISHED = "Published"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    STALLED = "Stalled"
    DEGRADED = "Degraded"


class JobState(StrEnum):
    """`status.state`: derived from the conditions, for people and print columns only."""

    PENDING = "Pending"
    INSPECTING = "Inspecting"
    PLANNED = "Planned"
    STARTING = "Starting"
    RUNNING = "Running"
    PUBLISHING = "Publishing"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """Why a condition has its status."""

    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    CHILD_NOT_OURS = "ChildNotOurs"
    WAITING_FOR_JOB = "WaitingForJob"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_FAILED = "SourceFailed"
    INSPECTING = "Inspecting"
    INSPECTED = "Inspected"
    INSPECTION_REUSED = "InspectionReused"
    INVALID_DATA = "InvalidData"
    STORAGE_REFUSED = "StorageRefused"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    OUTPUT_EXISTS = "OutputExists"
    INPUTS_CHANGED = "InputsChanged"
    WAITING_FOR_INSPECTION = "WaitingForInspection"
    PLANNED = "Planned"
    REPLANNED = "Replanned"
    DOES_NOT_FIT = "DoesNotFit"
    NO_CAPACITY = "NoCapacity"
    QUOTA_EXCEEDED = "QuotaExceeded"
    UNSUPPORTED_COMBINATION = "UnsupportedCombination"
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"
    WAITING_FOR_PLAN = "WaitingForPlan"
    CREATING_PODS = "CreatingPods"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CANNOT_START = "ContainerCannotStart"
    SCHEDULED = "Scheduled"
    WAITING_FOR_PODS = "WaitingForPods"
    STARTING = "Starting"
    RENDEZVOUS = "Rendezvous"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    RESTARTING = "Restarting"
    WAITING_FOR_TRAINING = "WaitingForTraining"
    PUBLISHING = "Publishing"
    PUBLISHED = "Published"
    PUBLICATION_FAILED = "PublicationFailed"
    REQUIREMENT_NOT_MET = "RequirementNotMet"
    SUCCEEDED = "Succeeded"
    IN_PROGRESS = "InProgress"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    RANK_KILLED = "RankKilled"
    DIVERGED = "Diverged"
    HANG = "Hang"
    PEER_LOST = "PeerLost"
    TERMINATED = "Terminated"
    CHECKPOINTS_UNUSABLE = "CheckpointsUnusable"
    DISK_FULL = "DiskFull"
    DISRUPTED = "Disrupted"
    TRAINER_ERROR = "TrainerError"
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    NOT_SUSPENDED = "NotSuspended"
    NO_PROGRESS = "NoProgress"
    PROGRESSING = "Progressing"
    CHECKPOINT_REJECTED = "CheckpointRejected"
    SLOW_RANK = "SlowRank"
    TRACKER_FAILED = "TrackerFailed"
    CLUSTER_REFUSED = "ClusterRefused"
    HEALTHY = "Healthy"


@dataclass(frozen=True)
class ReasonMeaning:
    """One row of the table: what has happened and what the reader can do about it."""

    meaning: str
    remedy: str


_NOTHING: Final = "nothing"

REASON_MEANINGS: Final = MappingProxyType(
    {
        Reason.ACCEPTED: ReasonMeaning("the spec is valid", _NOTHING),
        Reason.INVALID_SPEC: ReasonMeaning(
            "the spec asks for what cannot be done", "mend the field that the message names and apply again"
        ),
        Reason.CHILD_NOT_OURS: ReasonMeaning(
            "an object with a child's name exists and belongs to someone else",
            "delete or rename that object, or this job",
        ),
        Reason.WAITING_FOR_JOB: ReasonMeaning(
            "ftj://NAME names a job that has not ended; this one starts from its result, or learns from it", "wait"
        ),
        Reason.SOURCE_NOT_FOUND: ReasonMeaning(
            "ftj://NAME names a job that is not in this namespace",
            "create it, or name another; it is looked for again",
        ),
        Reason.SOURCE_FAILED: ReasonMeaning(
            "ftj://NAME names a job that has failed, so that there is no result",
            "mend that job, delete it and create it anew, which is noticed; or name another",
        ),
        Reason.INSPECTING: ReasonMeaning("a CPU pod reads the model's config and every data row", "wait"),
        Reason.INSPECTED: ReasonMeaning("model and data were read and are usable", _NOTHING),
        Reason.INSPECTION_REUSED: ReasonMeaning(
            "an equal job was inspected less than 24 h ago; its report is used", _NOTHING
        ),
        Reason.INVALID_DATA: ReasonMeaning(
            "the data set or the model's files are unusable", "mend the lines or files that the message names"
        ),
        Reason.STORAGE_REFUSED: ReasonMeaning(
            "a bucket, object, repository or ConfigMap is not there or refuses the credentials",
            "check the URI, the secret and the bucket's policy, or make the ConfigMap; it is tried again",
        ),
        Reason.STORAGE_UNAVAILABLE: ReasonMeaning("the object store does not answer", "wait; it is tried again"),
        Reason.OUTPUT_EXISTS: ReasonMeaning(
            "another job's model is at output.uri", "choose another output.uri or set output.ifExists: overwrite"
        ),
        Reason.INPUTS_CHANGED: ReasonMeaning(
            "model, data or a reward's function changed after the inspection", "nothing; they are inspected again"
        ),
        Reason.WAITING_FOR_INSPECTION: ReasonMeaning("the plan needs the inspection first", "wait"),
        Reason.PLANNED: ReasonMeaning("a plan was made; status.plan shows it", _NOTHING),
        Reason.REPLANNED: ReasonMeaning("a new plan was made after a failure", _NOTHING),
        Reason.DOES_NOT_FIT: ReasonMeaning("no allowed plan fits the GPUs' memory", "do what the message proposes"),
        Reason.NO_CAPACITY: ReasonMeaning(
            "the cluster has no such GPUs", "add nodes, or change resources; it is tried again"
        ),
        Reason.QUOTA_EXCEEDED: ReasonMeaning(
            "every plan that the nodes would take is more than the namespace's quota or policy allows",
            "ask for a larger quota, or do what the message proposes; it is tried again",
        ),
        Reason.UNSUPPORTED_COMBINATION: ReasonMeaning(
            "these settings do not work together, or not with this kind of model",
            "change one of the fields that the message names",
        ),
        Reason.UNKNOWN_ARCHITECTURE: ReasonMeaning(
            "no table of the estimator knows the model's architecture, and it cannot be traced on fake tensors either",
            "read in the message why it cannot be traced, or use a model of one of the types that it lists",
        ),
        Reason.WAITING_FOR_PLAN: ReasonMeaning("no pods are created before there is a plan", "wait"),
        Reason.CREATING_PODS: ReasonMeaning("the attempt's Job was created; its pods are not there yet", "wait"),
        Reason.UNSCHEDULABLE: ReasonMeaning("the scheduler finds no node", "read the scheduler's words in the message"),
        Reason.IMAGE_PULL_FAILED: ReasonMeaning(
            "an image cannot be pulled", "check the image's name and the pull secret"
        ),
        Reason.CONTAINER_CANNOT_START: ReasonMeaning(
            "the kubelet cannot start the container", "read the kubelet's words in the message"
        ),
        Reason.SCHEDULED: ReasonMeaning("every pod has a node", _NOTHING),
        Reason.WAITING_FOR_PODS: ReasonMeaning("not every pod runs yet", "wait"),
        Reason.STARTING: ReasonMeaning("the trainer starts: imports, model load, first batch", "wait"),
        Reason.RENDEZVOUS: ReasonMeaning("ranks wait for one another", "wait; a pod may still be starting"),
        Reason.TRAINING: ReasonMeaning("steps are being made", _NOTHING),
        Reason.EVALUATING: ReasonMeaning(
            "every step is made; the trained model is measured beside the base model (evaluation.metrics, evaluation.harness)",
            _NOTHING,
        ),
        Reason.RESTARTING: ReasonMeaning(
            "an attempt failed; the next one starts from the newest verified checkpoint", "wait"
        ),
        Reason.WAITING_FOR_TRAINING: ReasonMeaning("there is nothing to publish yet", "wait"),
        Reason.PUBLISHING: ReasonMeaning("the final checkpoint is being verified, merged and uploaded", "wait"),
        Reason.PUBLISHED: ReasonMeaning("the model is at output.uri, its manifest written last", _NOTHING),
        Reason.PUBLICATION_FAILED: ReasonMeaning(
            "the training is done and safe, its publication failed", "mend what the message names; it is tried again"
        ),
        Reason.REQUIREMENT_NOT_MET: ReasonMeaning(
            "the tuned model does not reach what evaluation.require asks; it is not published, and its checkpoints are kept",
            "read status.evaluation; train longer or on other rows, or name a lower bound in a new job that starts from the "
            "checkpoint (checkpoint.resumeFrom)",
        ),
        Reason.SUCCEEDED: ReasonMeaning("the job is done", _NOTHING),
        Reason.IN_PROGRESS: ReasonMeaning("the job has not ended", _NOTHING),
        Reason.RETRIES_EXHAUSTED: ReasonMeaning(
            "the job failed more often than run.retries allows", "mend the cause that the message names"
        ),
        Reason.DEADLINE_EXCEEDED: ReasonMeaning(
            "the job ran longer than run.deadline", "raise run.deadline, or make the job smaller"
        ),
        Reason.GPU_OUT_OF_MEMORY: ReasonMeaning(
            "a GPU ran out of memory", "nothing while it is replanned; else a smaller plan or more GPUs"
        ),
        Reason.HOST_OUT_OF_MEMORY: ReasonMeaning(
            "a container ran out of host memory",
            "nothing while its pods are given more; else nodes with more memory, or fewer processes in a pod",
        ),
        Reason.RANK_KILLED: ReasonMeaning(
            "a process was killed from outside (exit 137, not for memory)", "nothing; it is tried again"
        ),
        Reason.DIVERGED: ReasonMeaning(
            "the loss became NaN or infinite, or stays far above what it was; the checkpoints from before are kept",
            "lower training.learningRate, raise training.warmup, or look at the data",
        ),
        Reason.HANG: ReasonMeaning(
            "no step was finished for the time of ten usual ones (2 to 20 minutes)",
            "look at the stacks beside the kept log (docs/explanation/faults.md); it is tried again",
        ),
        Reason.PEER_LOST: ReasonMeaning(
            "a rank lost its peers and no other cause is known", "nothing; it is tried again"
        ),
        Reason.TERMINATED: ReasonMeaning("the pod was stopped from outside", "nothing; it is tried again"),
        Reason.CHECKPOINTS_UNUSABLE: ReasonMeaning(
            "the job has checkpoints, and none of them verifies; nothing was overwritten",
            "look at what the bucket lost (finetune checkpoints verify URI); delete the job and create it anew: it starts afresh beside "
            "them, or from another checkpoint (checkpoint.resumeFrom)",
        ),
        Reason.DISK_FULL: ReasonMeaning(
            "a pod's local disk is full; the checkpoints in the bucket are whole",
            "nodes with more ephemeral storage, or less beside the job on them; it is tried again",
        ),
        Reason.DISRUPTED: ReasonMeaning(
            "Kubernetes took the pod away (eviction, preemption, drain)", "nothing; it is not charged to run.retries"
        ),
        Reason.TRAINER_ERROR: ReasonMeaning(
            "the trainer ended with an error nobody foresaw", "read the log that the attempt names"
        ),
        Reason.SUSPENDED_BY_USER: ReasonMeaning("run.suspend is true", "set run.suspend: false to go on"),
        Reason.RESUMED: ReasonMeaning("the job goes on after a suspension", _NOTHING),
        Reason.NOT_SUSPENDED: ReasonMeaning("run.suspend is false", _NOTHING),
        Reason.NO_PROGRESS: ReasonMeaning("the job waits for something that does not move", "read the message"),
        Reason.PROGRESSING: ReasonMeaning("the job moves", _NOTHING),
        Reason.CHECKPOINT_REJECTED: ReasonMeaning(
            "a checkpoint was damaged or its upload cut off; an older one was used",
            "look at the bucket and its rules, unless it was cut off by a kill",
        ),
        Reason.SLOW_RANK: ReasonMeaning(
            "one rank is slower than its peers, and all wait for it in every step",
            "look at the node that the message names: a throttled GPU, a busy neighbour, a slow disk",
        ),
        Reason.TRACKER_FAILED: ReasonMeaning(
            "a tracker of spec.tracking, or the upload of TensorBoard's files, does not work; the training goes on without it",
            "read its words in the log of rank 0; look at the server's address and the keys in its Secret",
        ),
        Reason.CLUSTER_REFUSED: ReasonMeaning(
            "the API server refuses an object of the job", "read the message: quota, policy or a webhook"
        ),
        Reason.HEALTHY: ReasonMeaning("nothing was worked around", _NOTHING),
    }
)
"""Every reason with its meaning and remedy, for docs, CLI and tests."""
