"""Sizes of offload to local disk (`resources.offload: nvme`) that plan and trainer have to agree on."""

from __future__ import annotations

from typing import Final

BUFFERS: Final = 4
"""In host memory, of each process: what is stepped together, its float32 master, two moments and gradient (DeepSpeed 0.19.8, buffer_count)."""
ELEMENTS_TOGETHER: Final = 100_000_000
"""How many elements of a process's share are stepped together (sub_group_size); the last weight of a group may go beyond. DeepSpeed's own 1e9 makes
buffers of 16 GB in every process. Checkpoints name their files by these groups: with another number none from before could be resumed."""
DISK_BYTES: Final = 16
"""Of each trained parameter: master, moments, and the gradient from the end of the backward pass to the step."""
SWAPPED_BYTES: Final = 12
"""Of each trained parameter, what stays on disk from step to step and is copied into checkpoints."""
