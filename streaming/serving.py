"""The model that the settings name."""

from models.artefact import UnusableArtefact
from models.forecaster import Forecaster
from streaming.errors import UserError
from streaming.settings import Settings


def load_model(settings: Settings) -> Forecaster:
    """Nothing is compiled yet. Raises UserError where it cannot be used, or forecasts other steps."""
    try:
        model = Forecaster.load(settings.model_dir, settings.timezone)
    except UnusableArtefact as error:
        raise UserError(str(error)) from error
    if model.spec.step_ms != settings.step_ms:
        raise UserError(
            f"the model in {settings.model_dir} forecasts steps of {model.spec.step_ms} ms, TRENDCAST_STEP_MS says {settings.step_ms}: "
            "serve a model that was trained for these steps, or change the setting"
        )
    return model
