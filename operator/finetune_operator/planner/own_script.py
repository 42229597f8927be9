"""What a plan says of a user's own script (`spec.trainer`): it takes devices for it, and knows nothing of what the script does with them."""

from __future__ import annotations

from finetune_operator.api.spec import FineTuneJobSpec


def unknown_of_script(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Return what the estimator cannot know of a foreign script, to be shown first of a plan's reasons; nothing without one."""
    if spec.trainer is None:
        return ()
    return (
        f"trainer: {' '.join(spec.trainer.command)} in {spec.trainer.image} is a script of your own: devices, memory, steps and time are those that "
        "the operator's trainer would need with this spec; whether the script obeys tuning, training, strategy and batch is not known",
        "trainer: nothing is proven by a probe, an exhausted GPU is not replanned unless the script exits with 45, a hang is noticed only of a "
        "script that has reported progress, and this job teaches later plans nothing",
    )
