"""The model that serves, as promotion or the settings name it: fetched, checked, compiled. Takes seconds: not for the event loop."""

import os
from pathlib import Path

from feature_store.calls import ModelPointer
from models.artefact import UnusableArtefact
from models.artefact_cache import Download, fetch
from models.forecaster import Forecaster
from streaming.errors import UserError
from streaming.settings import Settings


def load(settings: Settings, pointer: ModelPointer | None) -> Forecaster:
    """The promoted model; where none was promoted, the one in TRENDCAST_MODEL_DIR. Nothing is compiled yet. Raises UserError."""
    if pointer is None:
        return load_from(settings.model_dir, settings)
    try:
        return load_from(fetch(pointer.version, pointer.files, cache_of(settings), _downloader(settings)), settings)
    except UnusableArtefact as error:
        raise UserError(str(error)) from error


def load_from(directory: Path, settings: Settings) -> Forecaster:
    """The model in a directory, for the shop's time zone and steps. Nothing is compiled yet. Raises UserError."""
    try:
        model = Forecaster.load(directory, settings.timezone)
    except UnusableArtefact as error:
        raise UserError(str(error)) from error
    if model.spec.step_ms != settings.step_ms:
        raise UserError(
            f"the model in {directory} forecasts steps of {model.spec.step_ms} ms, TRENDCAST_STEP_MS says {settings.step_ms}: "
            "serve a model that was trained for these steps, or change the setting"
        )
    return model


def load_compiled(settings: Settings, pointer: ModelPointer | None) -> Forecaster:
    """The same, ready to serve."""
    model = load(settings, pointer)
    model.warm_up()
    return model


def cache_of(settings: Settings) -> Path:
    """Where copies of promoted models are kept."""
    if settings.model_cache is not None:
        return settings.model_cache
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trendcast" / "models"


def _downloader(settings: Settings) -> Download:
    """Asks the MLflow store of the settings, which only then has to be installed and named."""

    def ask(source: str, directory: Path) -> Path:
        from models.registry import NoRegistry, download

        own = settings.mlflow_uri
        uri = own.get_secret_value() if own is not None else os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            raise UserError(f"the promoted model is {source} of an MLflow store: set TRENDCAST_MLFLOW_URI to it")
        try:
            return download(uri, source, directory)
        except NoRegistry as error:
            raise UserError(str(error)) from error

    return ask
