"""Loggers for other programs: TensorBoard, Weights & Biases, MLflow. Each training and each test is a run of theirs.

What every logger is given, besides options of its own, is said beside ``bsssl.registry.LOGGERS``.
"""

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bsssl import storage
from bsssl.errors import UserError
from bsssl.registry import LOGGERS

_MOST_PARAMETERS = 100  # that MLflow takes at a time
_LONGEST_PARAMETER = 500  # characters of a value that every server of MLflow takes


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Writes TensorBoard's event files into the folder of the stage: ``tensorboard --logdir OUTPUT_DIR``."""

    def __init__(self, *, folder: str, step: int, stage: str, seed: int, config: Mapping[str, Any]) -> None:
        # Of a training that goes on, what was logged after its checkpoint is not shown.
        self._writer = _package("tensorboard", module="torch.utils.tensorboard").SummaryWriter(
            folder, purge_step=step + 1 if step else 0
        )
        self._hparams = {} if step else {"stage": stage, "seed": seed, **config}

    @staticmethod
    def check() -> None:
        """Refuse to go on without the package."""
        _package("tensorboard", module="torch.utils.tensorboard")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add each scalar to its curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        if self._hparams:  # they are shown beside these scalars
            summaries = _package("tensorboard", module="torch.utils.tensorboard.summary").hparams(
                {key: "null" if value is None else value for key, value in self._hparams.items()}, dict(scalars)
            )
            for summary in summaries:
                self._writer.file_writer.add_summary(summary)
            self._hparams = {}

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class _Account:
    """A note of what a service has been given that takes no row back: the id of the run there, and the last step.

    The note lies in the folder of the stage, so that a training that goes on continues its run and gives no step twice.
    """

    def __init__(self, folder: str, name: str, *, step: int) -> None:
        self._path = os.path.join(folder, f"{name}.json")
        content = storage.read_json(self._path) if step and os.path.exists(self._path) else {}
        self.run_id: str | None = content.get("id")
        self._step: int = content.get("step", -1)

    def begin(self, run_id: str) -> None:
        """Note the run that is begun or continued."""
        self.run_id = run_id
        self._save()

    def is_new(self, step: int) -> bool:
        """Return whether the row of ``step`` is still to be given, and note that it is."""
        if step <= self._step:
            return False
        self._step = step
        self._save()
        return True

    def _save(self) -> None:
        storage.write_json(self._path, {"id": self.run_id, "step": self._step})


@LOGGERS.register("wandb")
class WandB:
    """Sends a run to Weights & Biases for each training and test, all of one output folder in one group.

    Args:
        project: The project there.
        entity: The user or team that owns the project; default: that of the API key.
        mode: online, or offline for files that ``wandb sync`` sends later; default: what WANDB_MODE says, or online.
        tags: Tags of the runs.
    """

    def __init__(
        self,
        *,
        folder: str,
        step: int,
        stage: str,
        seed: int,
        config: Mapping[str, Any],
        project: str = "bsssl",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        wandb = _package("wandb")
        self._account = _Account(folder, "wandb", step=step)
        self._run = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            tags=list(tags),
            id=self._account.run_id,
            resume="allow" if self._account.run_id else None,
            name=f"seed-{seed}/{stage}",
            group=_name(config),
            job_type=stage,
            config={**config, "stage": stage, "seed": seed},
            dir=folder,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._account.begin(self._run.id)

    @staticmethod
    def check() -> None:
        """Refuse to go on without the package."""
        _package("wandb")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send a row of the run's history."""
        if self._account.is_new(step):
            self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Send what is not sent yet."""
        self._run.finish()


@LOGGERS.register("mlflow")
class MLflow:
    """Gives a run to MLflow for each training and test.

    Args:
        tracking_uri: The address of the server, or a local store; default: what MLFLOW_TRACKING_URI says, or MLflow's.
        experiment: The experiment there; default: the name of the output folder.
    """

    def __init__(
        self,
        *,
        folder: str,
        step: int,
        stage: str,
        seed: int,
        config: Mapping[str, Any],
        tracking_uri: str | None = None,
        experiment: str | None = None,
    ) -> None:
        self._mlflow = _package("mlflow")
        self._client = self._mlflow.MlflowClient(tracking_uri=tracking_uri)
        self._account = _Account(folder, "mlflow", step=step)
        if self._account.run_id is None:
            tags = {"stage": stage, "seed": str(seed)}
            place = self._experiment(experiment or _name(config))
            run = self._client.create_run(place, run_name=f"seed-{seed}/{stage}", tags=tags)
            self._run_id: str = run.info.run_id
            self._give_parameters({**tags, **config})
        else:
            self._run_id = self._account.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        self._account.begin(self._run_id)

    @staticmethod
    def check() -> None:
        """Refuse to go on without the package."""
        _package("mlflow")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Give the scalars of a step."""
        if self._account.is_new(step):
            now, kind = int(1000 * time.time()), self._mlflow.entities.Metric
            rows = [kind(name, value, now, step) for name, value in scalars.items()]
            self._client.log_batch(self._run_id, metrics=rows)

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._run_id)

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made if there is none."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except self._mlflow.MlflowException:  # another process has been quicker
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _give_parameters(self, values: Mapping[str, Any]) -> None:
        kind = self._mlflow.entities.Param
        rows = [kind(key, str(value)[:_LONGEST_PARAMETER]) for key, value in values.items()]
        for first in range(0, len(rows), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=rows[first : first + _MOST_PARAMETERS])


def _name(config: Mapping[str, Any]) -> str:
    """Return the name of the output folder."""
    return os.path.basename(os.path.abspath(str(config.get("output_dir", ".")))) or "bsssl"


def _package(name: str, *, module: str | None = None) -> Any:
    """Return a ``module`` that a logger needs, by default the package with the logger's own ``name``.

    Raises:
        UserError: It is not installed; the message names the extra, which is called like the logger.
    """
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the logger '{name}' needs a package that is missing ({reason}): pip install 'bsssl[{name}]', or "
            "take it out of system.loggers"
        ) from None
