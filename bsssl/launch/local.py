"""Processes on this machine."""

import signal
import sys
import uuid
from collections.abc import Sequence

from bsssl.launch.base import Order, ProcessLauncher
from bsssl.registry import LAUNCHERS


@LAUNCHERS.register("local")
class LocalLauncher(ProcessLauncher):
    """Several processes on this machine that share each stage, one stage after the other."""

    def start(self, order: Order) -> None:
        """See ``ProcessLauncher``."""
        if self.settings.processes > 1:
            sys.exit(run_together(order.command, processes=self.settings.processes))


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
