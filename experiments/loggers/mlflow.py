"""Logs for MLflow, by a client that leaves its active run alone."""

from __future__ import annotations

import csv
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import batched
from pathlib import Path
from typing import Any, final

from latentmix.experiments.loggers.base import Latents, Logger, Status, coordinates
from latentmix.experiments.loggers.values import Pixels, sprite
from latentmix.models.files import inside

__all__ = ["MLflow"]

LONGEST = 5000  # characters of a parameter or a tag
ENDS: dict[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@final
class MLflow(Logger):
    """Logs a run of MLflow: parameters, metrics, pictures and latents as artifacts, and how the fit ended.

    Neither MLflow's active run nor its tracking address nor environment variables are changed. On import, MLflow adds
    handlers to its own loggers of `logging`.

    Args:
        folder: Folder of a store of its own, `mlflow.db`, and of `log.json`; that of a run is `mlflow` in it.
        tracking_uri: The store: the address of a server, or `sqlite:///FILE.db`; by default that of
            `MLFLOW_TRACKING_URI`, else `mlflow.db` in the folder.
        experiment: Name of the experiment.

    Raises:
        ValueError: If there is neither a folder nor an address, when the log is opened.

    Example:
        >>> from latentmix.experiments.loggers import MLflow
        >>> log = MLflow("logs", tracking_uri="http://localhost:5000")
        >>> fit(vae.model, guide, x, epochs=20, callbacks=[log])  # doctest: +SKIP
    """

    name = "MLflow"
    packages = ("mlflow", "sqlalchemy", "alembic")
    extra = "mlflow"
    addresses = {"tracking_uri": "MLFLOW_TRACKING_URI"}  # noqa: RUF012

    def __init__(
        self, folder: str | Path | None = None, *, tracking_uri: str | None = None, experiment: str = "latentmix"
    ) -> None:
        super().__init__(folder)
        self.tracking_uri = tracking_uri
        self.experiment = experiment

    def _begin(self, title: str, tags: Mapping[str, str], id: str | None) -> str:
        from mlflow.tracking import MlflowClient

        address = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not address and self.folder is None:
            raise ValueError("expected a folder, a tracking_uri or MLFLOW_TRACKING_URI; got none of them")
        address = address or f"sqlite:///{inside(self._folder, 'mlflow.db').absolute()}"
        self._client: Any = MlflowClient(tracking_uri=address)
        shortened = {safe: value[:LONGEST] for name, value in tags.items() if (safe := _key(name))}
        if id is None:
            run = self._client.create_run(self._experiment(address), tags=shortened, run_name=title[:200])
        else:
            run = self._client.get_run(id)
            logged = self._client.get_metric_history(id, "elbo/train")
            self._epoch = max([self._epoch, *(metric.step for metric in logged)])
        self._check_artifacts(address, str(run.info.artifact_uri))
        self._run = str(run.info.run_id)
        self._client.update_run(self._run, status="RUNNING")
        return self._run

    @property
    def _folder(self) -> Path:
        assert self.folder is not None
        return self.folder

    def _experiment(self, address: str) -> str:
        """The identifier of the experiment, made if it is not there; another process may be first."""
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self.experiment, artifact_location=self._artifacts(address)))
            except Exception:
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _artifacts(self, address: str) -> str | None:
        """The folder of artifacts of a store in a file, beside it; MLflow would put them into the working folder."""
        if not address.startswith("sqlite:///"):
            return None
        return (Path(address.removeprefix("sqlite:///")).absolute().parent / "artifacts").as_uri()

    def _check_artifacts(self, address: str, place: str) -> None:
        """Refuse a store in the folder that would write artifacts elsewhere: the folder may be a stranger's."""
        within = self._artifacts(address)
        own = self.folder is not None and address == f"sqlite:///{(self.folder / 'mlflow.db').absolute()}"
        if own and within is not None and (not place.startswith(f"{within}/") or ".." in place):
            raise ValueError(f"expected artifacts within {within}, where the folder was not moved; got {place}")

    def _config(self, config: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(_key(name), str(value)[:LONGEST]) for name, value in flat.items()]
        for some in batched(parameters, 100):
            self._client.log_batch(self._run, params=list(some))
        self._client.log_dict(self._run, dict(config), "configuration.yaml")

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        self._metrics(values, step)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for some in batched(values.items(), 500):
            self._client.log_batch(self._run, metrics=[Metric(_key(name), value, now, step) for name, value in some])

    def _picture(self, name: str, image: Pixels, step: int) -> None:
        self._client.log_image(self._run, image, artifact_file=f"{name}-{step}.png")

    def _latents(self, name: str, latents: Latents, step: int) -> None:
        file = StringIO()
        csv.writer(file).writerows(_table(latents))
        self._client.log_text(self._run, file.getvalue(), f"{name}-{step}/latents.csv")
        if latents.pixels is not None:
            self._client.log_image(self._run, sprite(latents.pixels), artifact_file=f"{name}-{step}/sprite.png")

    def _summary(self, summary: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        self._metrics({f"summary/{name}": value for name, value in figures.items()}, self._epoch)
        self._client.log_dict(self._run, dict(summary), "summary.json")

    def _close(self, status: Status) -> None:
        self._client.set_terminated(self._run, ENDS[status])


def _key(name: str) -> str:
    """A name of a metric, a parameter or a tag: letters, digits and `_-./ `."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII).strip("/. ")[:200] or "_"


def _table(latents: Latents) -> Iterator[Sequence[Any]]:
    yield [*latents.header, *coordinates(latents.points)]
    for words, point in zip(latents.rows, latents.points.tolist(), strict=True):
        yield [*words, *point]
