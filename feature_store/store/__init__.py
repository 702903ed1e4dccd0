"""The one package that talks to Redis."""

from feature_store.store.aggregates import Aggregates
from feature_store.store.counting import Counting
from feature_store.store.forecasting import Forecasting
from feature_store.store.namespace import Namespace
from feature_store.store.reading import Reading


class FeatureStore(Namespace, Counting, Forecasting, Aggregates, Reading):
    """One namespace in Redis. Safe to share between tasks of one event loop."""
