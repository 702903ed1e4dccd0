"""The record of trainings and backtests, and which model may serve: MLflow behind a handful of functions.

MLflow is imported when a registry is opened, and only here. The registry knows a model by its artefact's version (12 hexadecimal digits
over everything that a forecast depends on) and keeps its backtests by the bench's fingerprint, so that only like is compared with like.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from models import artefact as artefacts
from models.artefact import Artefact

Rows = Mapping[str, Mapping[str, float]]  # by model: a row of `metrics.table_row`

SERVING: Final = "serving"  # alias
_EXPERIMENT: Final = "trendcast"
_ARTEFACT: Final = "trendcast.artefact"  # tag of a version: the artefact's
_BACKTEST: Final = "trendcast.backtest."  # tags of a version, one a bench
_HISTORY: Final = "trendcast.history"  # tag of a model: who served when
_LONGEST_HISTORY: Final = 200  # moves; a tag holds 100,000 characters


class NoRegistry(Exception):
    """Nothing can be recorded or read; the message says why and what to do."""


class NotPromoted(Exception):
    """The model may not serve, or there is none to go back to; the message says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One backtest: our model beside others on one bench."""

    source: str  # the bench's name, for people
    rows: Rows

    def mwql(self, model: str) -> float | None:
        return self.rows[model]["MWQL"] if model in self.rows else None


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model."""

    name: str
    number: int
    artefact: str  # version of the artefact
    backtests: Mapping[str, Measured] = field(default_factory=dict)  # by the bench's fingerprint
    serving: bool = False
    run_id: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model may serve. `table`: MWQL by bench, then by who was measured on it."""

    table: Mapping[str, Mapping[str, float]]
    objections: tuple[str, ...]


def judge(candidate: Version, serving: Version | None, baselines: Sequence[str]) -> Verdict:
    """A model may serve that beats every baseline and the serving model wherever it was measured, on a bench of the serving one at least once.

    >>> rows = {"lstm": {"MWQL": 0.8}, "28-day mean": {"MWQL": 0.9}}
    >>> judge(Version("lstm", 1, "a", {"f": Measured("shop", rows)}), None, ["28-day mean"]).objections
    ()
    """
    table: dict[str, dict[str, float]] = {}
    objections = []
    common = 0
    for fingerprint, measured in candidate.backtests.items():
        own = measured.mwql(candidate.name)
        if own is None:
            continue
        line = {candidate.label: own}
        missing = [name for name in baselines if name not in measured.rows]
        if missing:
            objections.append(f"{', '.join(missing)} was not measured on {measured.source}: backtest again")
        line |= {name: measured.rows[name]["MWQL"] for name in baselines if name in measured.rows}
        rival = serving.backtests[fingerprint].mwql(serving.name) if serving and fingerprint in serving.backtests else None
        if serving and rival is not None:
            line[serving.label] = rival
            common += 1
        objections += [
            f"on {measured.source}, {other} has MWQL {value:.4f} and {candidate.label} {own:.4f}"
            for other, value in line.items()
            if other != candidate.label and not own < value
        ]
        table[f"{measured.source} ({fingerprint})"] = line
    if not table:
        objections.append(f"{candidate.label} has no backtest: run `trendcast backtest DIR --model MODEL`")
    elif serving and not common:
        objections.append(
            f"{candidate.label} and {serving.label}, which serves, were not measured on the same bench: "
            "run `trendcast backtest DIR --model MODEL` for both"
        )
    return Verdict(table, tuple(objections))


@dataclass(frozen=True, slots=True)
class Move:
    """One change of the serving version."""

    at_ms: int
    version: int
    back: bool  # a rollback


def stack(history: Sequence[Move]) -> list[int]:
    """Versions that a rollback may return to, oldest first; the last one serves.

    >>> stack([Move(1, 1, False), Move(2, 3, False), Move(3, 1, True), Move(4, 4, False)])
    [1, 4]
    """
    versions: list[int] = []
    for move in history:
        if move.back:
            del versions[-1:]
        else:
            versions.append(move.version)
    return versions


class Registry:
    """Runs and versions in one MLflow store."""

    def __init__(self, uri: str, artefact_root: str | None, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        """Raises NoRegistry where MLflow is not installed or the store cannot be opened."""
        self.uri = uri
        self._clock_ms = clock_ms
        self._client = _client(uri)
        with _translated(uri):
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            self._experiment = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT, artefact_root)

    def record(
        self,
        kind: str,
        artefact: Artefact,
        backtests: Mapping[str, Measured],
        files: Sequence[Path] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> str:
        """A run of a training or a backtest, with its model: parameters, curve, rows and files. Returns the run's id."""
        from mlflow.entities import Metric, Param

        now = self._clock_ms()
        recipe = {f"recipe.{name}": value for name, value in artefact.training.get("recipe", {}).items()}
        spec = {f"features.{name}": value for name, value in artefact.spec.to_json().items()}
        others = {"model": artefact.name, "artefact": artefact.version, **(notes or {})}
        params = [Param(name, str(value)[:6000]) for name, value in {**recipe, **spec, **others}.items()]
        curve = [
            Metric(name, look[name], now, look["iteration"])
            for look in artefact.training.get("curve", [])
            for name in ("loss", "held_out_loss")
        ]
        rows = [
            Metric(_plain(f"{measured.source}/{model}/{column}"), value, now, 0)
            for measured in backtests.values()
            for model, row in measured.rows.items()
            for column, value in row.items()
        ]
        with _translated(self.uri):
            run = self._client.create_run(
                self._experiment, run_name=f"{kind} {artefact.name} {artefact.version}", tags={"trendcast.kind": kind}
            )
            run_id = str(run.info.run_id)
            self._client.log_batch(run_id, params=params)
            metrics = [*curve, *rows]
            for start in range(0, len(metrics), 500):
                self._client.log_batch(run_id, metrics=metrics[start : start + 500])
            with TemporaryDirectory() as scratch:
                artefacts.write(artefact, Path(scratch))
                for name in artefacts.FILES:
                    self._client.log_artifact(run_id, str(Path(scratch) / name), "model")
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id)
        return run_id

    def register(self, artefact: Artefact, run_id: str) -> Version:
        """The version of this artefact: made of a run that holds it, unless there is one already."""
        from mlflow.exceptions import MlflowException

        for version in self.versions(artefact.name):
            if version.artefact == artefact.version:
                return version
        with _translated(self.uri):
            try:
                self._client.get_registered_model(artefact.name)
            except MlflowException:
                self._client.create_registered_model(artefact.name)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/model"
            tags = {_ARTEFACT: artefact.version, "trendcast.step_ms": str(artefact.spec.step_ms), "trendcast.features": artefact.spec.hash}
            made = self._client.create_model_version(artefact.name, source, run_id, tags=tags, await_creation_for=0)
        return Version(artefact.name, int(made.version), artefact.version, run_id=run_id)

    def add_backtests(self, version: Version, backtests: Mapping[str, Measured]) -> Version:
        """Store what a version was measured at; a bench that it was measured on before is replaced."""
        with _translated(self.uri):
            for fingerprint, measured in backtests.items():
                document = json.dumps({"source": measured.source, "rows": measured.rows})
                self._client.set_model_version_tag(version.name, str(version.number), _BACKTEST + fingerprint, document)
        return replace(version, backtests={**version.backtests, **backtests})

    def versions(self, name: str | None = None) -> list[Version]:
        """All registered versions, or those of a name: by name, the newest first."""
        with _translated(self.uri):
            found = []
            for model in self._client.search_registered_models():
                if name is not None and model.name != name:
                    continue
                # A search result may lack the aliases.
                aliases = self._client.get_registered_model(model.name).aliases
                numbers = self._client.search_model_versions(f"name='{model.name}'")
                found += [_version(one, aliases.get(SERVING)) for one in numbers if _ARTEFACT in one.tags]
        return sorted(found, key=lambda version: (version.name, -version.number))

    def serving(self, name: str) -> Version | None:
        """The version that serves, if any does."""
        return next((version for version in self.versions(name) if version.serving), None)

    def judged(self, candidate: Version, baselines: Sequence[str]) -> Verdict:
        """What `promote` would say."""
        return judge(candidate, self.serving(candidate.name), baselines)

    def promote(self, candidate: Version, baselines: Sequence[str], others: Sequence[str] = ()) -> Verdict:
        """Let a version serve. Changes nothing where the verdict has objections; `others`: of the caller's own, which are added."""
        serving = self.serving(candidate.name)
        if serving and serving.number == candidate.number:
            raise NotPromoted(f"{candidate.label} serves already")
        verdict = judge(candidate, serving, baselines)
        verdict = replace(verdict, objections=(*verdict.objections, *others))
        if not verdict.objections:
            self._move(candidate.name, Move(self._clock_ms(), candidate.number, back=False))
        return verdict

    def before(self, name: str) -> Version:
        """The version that served before the present one. Raises NotPromoted where there is none."""
        numbers = stack(self.history(name))[:-1]
        found = [version for version in self.versions(name) if numbers and version.number == numbers[-1]]
        if not found:
            raise NotPromoted(f"no version of {name} served before the present one")
        return found[0]

    def rollback(self, name: str) -> Version:
        """Let the version serve that served before. Raises NotPromoted where there is none."""
        before = self.before(name)
        self._move(name, Move(self._clock_ms(), before.number, back=True))
        return replace(before, serving=True)

    def history(self, name: str) -> list[Move]:
        """All changes of the serving version, oldest first."""
        with _translated(self.uri):
            known = [model for model in self._client.search_registered_models() if model.name == name]
            return [Move(**move) for model in known for move in json.loads(model.tags.get(_HISTORY, "[]"))]

    def _move(self, name: str, move: Move) -> None:
        history = [*self.history(name), move][-_LONGEST_HISTORY:]
        with _translated(self.uri):
            self._client.set_registered_model_alias(name, SERVING, str(move.version))
            self._client.set_registered_model_tag(name, _HISTORY, json.dumps([asdict(one) for one in history]))

    def source(self, version: Version) -> str:
        """Where a version's files are, for others: file:///… where the store keeps them in directories, else runs:/…, to be asked of the store."""
        with _translated(self.uri):
            where = str(self._client.get_run(version.run_id).info.artifact_uri)
            return f"{where}/model" if urlsplit(where).scheme == "file" else f"runs:/{version.run_id}/model"

    def files(self, version: Version) -> Path:
        """Directory of a version's model; fetched where the store is elsewhere."""
        with _translated(self.uri):
            where = urlsplit(self._client.get_run(version.run_id).info.artifact_uri)
            if where.scheme == "file":
                return Path(unquote(where.path)) / "model"
            return Path(self._client.download_artifacts(version.run_id, "model"))


def local_uri(directory: Path) -> str:
    """URI of a store in a directory of its own: sqlite, for MLflow gives up plain files."""
    return f"sqlite:///{directory.resolve() / 'mlflow.db'}"


def open_registry(uri: str) -> Registry:
    """The registry at an MLflow URI; a local sqlite file is made, with its artefacts beside it. Raises NoRegistry."""
    parts = urlsplit(uri)
    if parts.scheme != "sqlite":
        return Registry(uri, None)
    directory = Path(unquote(parts.path.removeprefix("/"))).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoRegistry(f"{directory} cannot be made ({error})") from error
    return Registry(uri, (directory.resolve() / "artefacts").as_uri())


def download(uri: str, source: str, directory: Path) -> Path:
    """What a `runs:/…` of the MLflow store at `uri` names, copied into a directory. Raises NoRegistry."""
    run_id, _, path = source.removeprefix("runs:/").partition("/")
    client = _client(uri)
    with _translated(uri):
        return Path(client.download_artifacts(run_id, path, str(directory)))


def backtests_of(artefact: Artefact) -> dict[str, Measured]:
    """What an artefact was measured at when it was trained, by the bench's fingerprint; older ones do not know their benches."""
    benches = artefact.training.get("benches", {})
    return {benches[source]: Measured(source, rows) for source, rows in artefact.backtest.items() if source in benches}


def _version(found: Any, serving: Any) -> Version:
    documents = {key.removeprefix(_BACKTEST): json.loads(value) for key, value in found.tags.items() if key.startswith(_BACKTEST)}
    backtests = {fingerprint: Measured(document["source"], document["rows"]) for fingerprint, document in documents.items()}
    number = int(found.version)
    return Version(found.name, number, found.tags[_ARTEFACT], backtests, str(serving) == str(number), found.run_id or "")


def _plain(name: str) -> str:
    """A metric's name in the characters that MLflow takes.

    >>> _plain("shop/lstm/P(y<=q90)")
    'shop/lstm/P y at most q90'
    """
    spelt = name.replace("<=", " at most ").replace("<", " below ")
    return "".join(sign if sign.isalnum() or sign in "_-. /" else " " for sign in spelt).replace("  ", " ").strip()


def _client(uri: str) -> Any:
    # Set before the import: MLflow reports its use over the network, and waits minutes for a server that does not answer.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    for name, value in (("HTTP_REQUEST_MAX_RETRIES", "2"), ("HTTP_REQUEST_TIMEOUT", "20"), ("ENABLE_ARTIFACTS_PROGRESS_BAR", "false")):
        os.environ.setdefault(f"MLFLOW_{name}", value)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise NoRegistry(f"MLflow is not installed ({error.name}); pip install 'trendcast[training]'") from error
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry; the last failure is told anyway
    with _translated(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Any failure of the store as NoRegistry, in one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        lines = str(error).splitlines() or [repr(error)]
        credentials, found, _ = urlsplit(uri).netloc.rpartition("@")
        reason = lines[0].replace(credentials + found, "")
        raise NoRegistry(f"the registry at {_without_password(uri)} does not work: {reason}") from None


def _without_password(uri: str) -> str:
    """The URI for messages.

    >>> _without_password("postgresql://me:secret@host/db")
    'postgresql://host/db'
    """
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rsplit("@")[-1]).geturl() if "@" in parts.netloc else uri
