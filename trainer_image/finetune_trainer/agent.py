"""torchrun, with one thing more: how each rank ended is written to a file, because torchrun says it only in its log."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.rank_files import Deaths, RankDeath, RunDirectory


def run_agent(arguments: Sequence[str], run: RunDirectory) -> int:
    """Run torchrun with these arguments in this process and return 0 when every rank of this pod did."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as run_elastic

    try:
        run_elastic(parse_args(list(arguments)))
    except ChildFailedError as error:
        run.write_deaths(
            Deaths(
                deaths=tuple(
                    RankDeath(rank=rank, time=float(failure.timestamp), status=failure.exitcode)
                    for rank, failure in error.failures.items()
                )
            )
        )
        return 1
    return 0
