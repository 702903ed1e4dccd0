"""What everything that speaks for one model works with. Another model that takes over has all of it made anew."""

from dataclasses import dataclass

from feature_store.store import FeatureStore
from models.forecaster import Forecaster
from models.records import Codec
from streaming.calibrations import Calibrations
from streaming.known_ahead import KnownAhead
from streaming.ownership import Ownership
from streaming.readout import Compute
from streaming.rebuilding import Rebuilding
from streaming.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """Of the forecast worker, for one model."""

    settings: Settings
    store: FeatureStore
    model: Forecaster
    codec: Codec
    ownership: Ownership
    calibrations: Calibrations
    rebuilding: Rebuilding
    ahead: KnownAhead
    compute: Compute
