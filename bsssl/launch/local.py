"""Processes on this machine."""

import signal
import sys
import uuid
from collections.abc import Sequence

from typing_extensions import override

from bsssl.config import Launcher
from bsssl.errors import UserError
from bsssl.launch.base import Order, ProcessLauncher
from bsssl.registry import LAUNCHERS


@LAUNCHERS.register("local")
class LocalLauncher(ProcessLauncher):
    """Several processes on this machine that share each stage, one stage after the other."""

    def __init__(self, settings: Launcher) -> None:
        super().__init__(settings)
        if settings.nodes > 1:
            raise UserError(
                f"launcher: kind is local, which has one node, not {settings.nodes}; set kind=slurm or nodes=1"
            )

    @override
    def start(self, order: Order) -> None:
        stages = (stage for _, run in order.runs for stage in run.stages.values())
        kinds = {stage.kind for stage in stages if stage.resources.whole_nodes}
        processes = max(map(self.settings.processes, kinds), default=self.settings.processes())
        if processes > 1:
            sys.exit(run_together(order.command, processes=processes))


def run_together(command: Sequence[str], *, processes: int) -> int:
    """Run ``command`` in so many processes of one group, which ends as a whole when one fails; return the status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError:
        return 1  # the process has said why
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + error.sigval
    return 0
