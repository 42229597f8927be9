"""torchrun, with one thing more: how each rank ended is written to a file, because torchrun says it only in its log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_trainer.rank_files import Deaths, RankDeath, RankError, RunDirectory


def run_agent(arguments: Sequence[str], run: RunDirectory) -> int:
    """Run torchrun with these arguments in this process and return 0 when every rank of this pod did."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as run_elastic

    options = parse_args(list(arguments))
    started = time.monotonic()
    try:
        run_elastic(options)
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
    except (DistError, RendezvousError) as error:
        # Only the meeting of the pods raises these: afterwards this process talks to its own ranks alone.
        minutes = (time.monotonic() - started) / 60
        said = str(error).partition("\n")[0]  # what follows are frames of C++
        run.write_error(
            RankError(
                rank=int(options.node_rank) * int(options.nproc_per_node),
                time=time.time(),
                exit_code=ExitCode.PEER_LOST,
                reason=meaning_of(ExitCode.PEER_LOST).reason,
                message=f"waited {minutes:.1f} minutes for the other pods at {options.master_addr}:{options.master_port} ({said}); look "
                "whether every pod of the attempt runs (a Pending one waits for nodes or quota) and whether a network policy keeps them "
                "from one another",
            )
        )
        return 1
    return 0
