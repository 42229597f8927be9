"""A user's own training script (`spec.trainer`): what it is told, where it leaves its files, and how its container and ours speak.

Two containers of a pod share the work directory and nothing else. Ours (`trainer`) restores and saves the script's folder and says afterwards how the
script ended; the other runs the user's image. Files in the control folder are all that they say to each other, so that an image needs no more than
a shell. `finetune run` starts the same shell as a process.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from finetune_operator.api.model import Rule, SpecModel

CHECKPOINT_FOLDER_VARIABLE: Final = "FINETUNE_CHECKPOINT_FOLDER"
RESULT_FOLDER_VARIABLE: Final = "FINETUNE_RESULT_FOLDER"
PLAN_VARIABLE: Final = "FINETUNE_PLAN"
AUTHORITY_FILE: Final = "ca.crt"
"""Beside the plan's file in the attempt's ConfigMap: what the progress server's certificate is checked against."""
CONTROL_VARIABLE: Final = "FINETUNE_SCRIPT_CONTROL"

SCRIPT_FOLDER: Final = "script"
"""Below the work directory: what is saved and restored."""
CHECKPOINTS: Final = "checkpoints"
RESULT: Final = "export"
"""The part of a checkpoint that is published, named as that of our own sharded runs."""
CONTROL: Final = "script-control"
BEGIN_FILE: Final = "begin"
CANCEL_FILE: Final = "cancel"
ALIVE_FILE: Final = "alive"
EXIT_FILE: Final = "exit"
KEEPER_FILE: Final = "keeper"
"""Renewed by our container: without it nobody saves what the script makes."""
PROGRESS_FILE: Final = "progress"
"""Where our container listens to what the script reports."""
STOP_FILE: Final = "stop"
"""Our container has seen no progress for too long."""
PROGRESS_URL_VARIABLE: Final = "KUBEFLOW_TRAINER_SERVER_URL"
PROGRESS_TOKEN_VARIABLE: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - the name of a variable

SHELL: Final = f"""
control="${CONTROL_VARIABLE}"
export PET_NODE_RANK="${{PET_NODE_RANK:-${{JOB_COMPLETION_INDEX:-0}}}}"
trap 'exit 143' TERM INT
mkdir -p "$control"
: > "$control/{ALIVE_FILE}"
until [ -e "$control/{BEGIN_FILE}" ]; do
  [ -e "$control/{CANCEL_FILE}" ] && exit 0
  : > "$control/{ALIVE_FILE}"
  sleep 1
done
[ -e "$control/{PROGRESS_FILE}" ] && export {PROGRESS_URL_VARIABLE}="$(cat "$control/{PROGRESS_FILE}")"
"$@" &
script=$!
trap 'kill -TERM "$script" 2>/dev/null' TERM INT
(while kill -0 "$script" 2>/dev/null; do
  : > "$control/{ALIVE_FILE}"
  [ -n "$(find "$control/{KEEPER_FILE}" -mmin +2 2>/dev/null)" ] && kill -TERM "$script" 2>/dev/null
  if [ -e "$control/{STOP_FILE}" ]; then kill -TERM "$script"; sleep 35; kill -KILL "$script"; fi 2>/dev/null
  sleep 2
done) &
wait "$script"; code=$?
while kill -0 "$script" 2>/dev/null; do wait "$script"; code=$?; done
echo "$code" > "$control/{EXIT_FILE}.partial"
mv "$control/{EXIT_FILE}.partial" "$control/{EXIT_FILE}"
exit "$code"
"""
"""Waits until the script's folder is restored, runs the script, passes SIGTERM on, says every two seconds that it is there, and last its exit code.

A script whose keeper has been gone for two minutes is stopped: it would train on, and nothing of it would be kept. One that hangs is killed when it
does not hear SIGTERM within 35 s: torchrun gives its processes 30.

A `wait` that a signal interrupts returns before the script has ended; hence the second one.
"""

Word = Annotated[str, StringConstraints(max_length=1024)]


class Trainer(SpecModel):
    """A training script of the user's own, in an image of the user's own, instead of the operator's trainer."""

    image: str = Field(max_length=1000, description="The image, which needs /bin/sh. `finetune run` does not use it.")
    command: list[Word] = Field(
        min_length=1,
        max_length=50,
        description="What is run in each pod, such as [torchrun, train.py]: torchrun finds number, rank and address of the pods in its environment.",
    )
    args: list[Word] = Field(default_factory=list, max_length=200, description="Appended to command.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.image != ''",
            message="trainer.image: it is empty, and no pod starts without an image; write registry/name:tag",
            holds=lambda t: bool(t.image),
        ),
        Rule(
            cel="!self.image.contains(' ')",
            message="trainer.image: a name with a space is no image; write registry/name:tag",
            holds=lambda t: " " not in t.image,
        ),
    )

    @property
    def arguments(self) -> tuple[str, ...]:
        """What a process is started with that runs the script."""
        return ("/bin/sh", "-c", SHELL, "script", *self.command, *self.args)


def progress_environment(url: str, authority: str, token: str) -> dict[str, str]:
    """Return the variables of Kubeflow's KEP-2779 (transformers' KubeflowCallback): where progress is told, and paths of certificate and token."""
    return {
        PROGRESS_URL_VARIABLE: url,
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": authority,
        PROGRESS_TOKEN_VARIABLE: token,
    }


def script_environment(
    work: str, plan: str, *, pods: int, processes_per_pod: int, host: str, port: int
) -> dict[str, str]:
    """Return the variables by which a script knows its folders, the attempt's file and its peers; torchrun reads those that begin with PET_."""
    folder = f"{work.rstrip('/')}/{SCRIPT_FOLDER}"
    return {
        CHECKPOINT_FOLDER_VARIABLE: f"{folder}/{CHECKPOINTS}",
        RESULT_FOLDER_VARIABLE: f"{folder}/{RESULT}",
        CONTROL_VARIABLE: f"{work.rstrip('/')}/{CONTROL}",
        PLAN_VARIABLE: plan,
        "PET_NNODES": str(pods),
        "PET_NPROC_PER_NODE": str(processes_per_pod),
        "PET_MASTER_ADDR": host,
        "PET_MASTER_PORT": str(port),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
