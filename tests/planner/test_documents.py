"""The documents about inventory and history say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from finetune_operator.planner import history, quotas
from finetune_operator.planner.gpu_labels import PRODUCT_LABEL, SHARED_RESOURCE

DOCS = Path(__file__).parents[2] / "docs"
INVENTORY = (DOCS / "reference" / "inventory.md").read_text()
HISTORY = (DOCS / "explanation" / "history.md").read_text()


def test_every_quota_that_binds_and_every_annotation_is_documented() -> None:
    section = INVENTORY.partition("## Quotas")[2].partition("\n- ")[0]
    documented = set(re.findall(r"`([a-z./-]+)`", section)) - {"requests.nvidia.com/gpu", "scheduling.priority"}
    assert documented == set(quotas._NAMES)
    for name in (quotas.GPU_PRODUCTS_ANNOTATION, quotas.MAX_GPUS_ANNOTATION, PRODUCT_LABEL, SHARED_RESOURCE):
        assert name in INVENTORY


def test_the_bounds_of_history_are_those_of_the_code() -> None:
    for name, factor, credible in (
        ("memory", history.MEMORY_FACTOR, history.CREDIBLE_MEMORY),
        ("tokens per second", history.THROUGHPUT_FACTOR, history.CREDIBLE_THROUGHPUT),
    ):
        row = f"| {name} | {factor.least:g} to {factor.most:g} | {credible.least:g} to {credible.most:g} |"
        assert row in HISTORY
    assert f"The newest {history.RUNS_PER_KIND} runs of a kind and the newest {history.MOST_RUNS} of all" in HISTORY
    assert f"k = {history.PRIOR_RUNS:g}; the prior" in HISTORY
    assert f"drawn to 1 with k = {history.PRIOR_KINDS:g}" in HISTORY
    assert f"up to {history.MEMORY_FACTOR.most:g} × `expected`" in HISTORY
