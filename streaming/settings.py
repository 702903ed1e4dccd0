"""Every setting of the program, from the environment (`TRENDCAST_…`), typed and checked at the start."""

from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
SHIPPED_MODEL = Path(__file__).resolve().parent.parent / "models" / "default"


class Clock(StrEnum):
    """What moves time where no event does."""

    WALL = "wall"  # production: a source that stood at the end of its log for a minute moves with the clock
    SCALED = "scaled"  # demo: the same by a simulated clock
    LOG = "log"  # replay: records and heartbeats only


class Settings(BaseSettings):
    """One namespace of one shop. Immutable; pass it, or the parts that are needed, as an argument."""

    model_config = SettingsConfigDict(env_prefix="TRENDCAST_", secrets_dir=None, frozen=True, extra="ignore")

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, separated by commas")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis, as redis://, rediss:// or unix:// URL; may hold a password"
    )
    redis_url_file: Path | None = Field(
        None, description="a file that holds the Redis URL, for secrets mounted as files; wins over the URL itself"
    )
    namespace: str = Field(
        "shop", pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="prefix of every Redis key, consumer group and the doorbell topic"
    )
    orders_topic: str = Field("orders", description="topic of order events")
    clickstream_topic: str = Field("clickstream", description="topic of click events")
    facts_topic: str | None = Field(
        None, description="topic of what the shop knows of its products (compacted), for instance `product-facts`; none is read else"
    )
    context_topic: str | None = Field(
        None, description="topic of series that are no product's (compacted), for instance `context`; none is read else"
    )
    forecasts_topic: str = Field("forecasts", description="topic of forecasts (compacted)")
    alerts_topic: str = Field("trend-alerts", description="topic of trend alerts")
    scores_topic: str = Field("forecast-scores", description="topic of what came of forecasts (compacted)")
    dead_letters_topic: str = Field("dead-letters", description="topic of rejected records")
    feedback_topic: str = Field("alert-feedback", description="topic of what people say of alerts (compacted)")

    shards: int = Field(
        32, ge=1, le=1024, description="groups of products; also the partitions of the doorbell topic; fixed for a namespace"
    )
    tile_ms: int = Field(5 * MINUTE_MS, ge=1000, description="length of a tile; fixed for a namespace")
    step_ms: int = Field(HOUR_MS, ge=1000, description="length of the model's time step, a whole number of tiles; fixed for a namespace")
    timezone: str = Field("UTC", description="the shop's time zone (IANA name), for weekdays and hours; fixed for a namespace")
    country: str | None = Field(
        None,
        pattern=r"^[A-Z]{2}$",
        description="whose public holidays a model that looks at the calendar sees (ISO 3166); fixed for a namespace",
    )
    subdivision: str | None = Field(None, description="the part of the country (SCT, CA), where its holidays differ; fixed for a namespace")
    events_file: Path | None = Field(None, description="the shop's events, TOML (docs/training.md); the model's own list else")
    currency: str | None = Field(
        None, pattern=r"^[A-Z]{3}$", description="the namespace's currency; orders in another count units, not revenue"
    )

    lateness_ms: int = Field(
        10 * MINUTE_MS, ge=0, description="how long an event may arrive after a later one of its source and still be on time"
    )
    future_ms: int = Field(
        5 * MINUTE_MS, ge=0, description="how far an event's time may lie after its Kafka timestamp before it is rejected"
    )
    tile_retention_ms: int = Field(25 * HOUR_MS, ge=HOUR_MS, description="event time for which tiles are kept")
    step_retention_ms: int = Field(8 * DAY_MS, ge=DAY_MS, description="event time for which closed steps are kept")
    dedup_ms: int = Field(DAY_MS, ge=0, description="event time within which an order's event_id counts once; 0 switches deduplication off")
    evict_after_ms: int = Field(60 * DAY_MS, ge=DAY_MS, description="a product silent for longer is forgotten")

    clock: Clock = Field(Clock.WALL, description="wall (production), scaled (demo) or log (replay)")
    clock_speed: float = Field(1.0, gt=0, description="scaled clock: simulated seconds per second")
    clock_origin_ms: int = Field(0, ge=0, description="scaled clock: the real time, epoch ms, at which it started")
    clock_start_ms: int = Field(0, ge=0, description="scaled clock: the simulated time, epoch ms, at which it started")
    idle_after_ms: int = Field(60_000, ge=1000, description="a source this long at the end of its log moves with the clock (wall, scaled)")
    lagging_source_ms: int = Field(HOUR_MS, ge=MINUTE_MS, description="a source this far behind the others does not hold up closing (wall)")
    ahead_ms: int = Field(3 * HOUR_MS, ge=MINUTE_MS, description="a source this far ahead of the slowest is paused")

    model_dir: Path = Field(SHIPPED_MODEL, description="directory of the model that serves until one is promoted")
    model_cache: Path | None = Field(
        None, description="directory for copies of promoted models; else trendcast/models in XDG_CACHE_HOME, which is ~/.cache by default"
    )
    mlflow_uri: SecretStr | None = Field(
        None,
        description="MLflow store of trainings, backtests and registered models; else MLFLOW_TRACKING_URI, "
        "else sqlite in .trendcast/mlruns; off: none",
    )
    alerts_floor: float = Field(
        1.0,
        ge=0,
        le=100,
        description="no alert begins of a shard's volume class whose forecasts lost more, over a week, than so many times what the naive forecast "
        "(as a day before) lost; 0: alerts are never held back",
    )
    publish: bool = Field(True, description="off: compute and commit, but send no forecast and no alert (a namespace that catches up)")
    nowcast_limit: int = Field(1024, ge=1, le=65536, description="changed products served in one cycle")
    sweep_chunk: int = Field(1024, ge=1, le=65536, description="products advanced between two looks at the changed ones")

    session_timeout_ms: int = Field(10_000, ge=1000, description="a worker silent for longer loses its partitions")
    heartbeat_interval_ms: int = Field(
        3_000, ge=100, description="how often a worker tells Kafka that it lives; at most a third of the session timeout"
    )
    instance_id: str | None = Field(None, description="static group membership: a name that survives a restart of this process")
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: any free one, which the log names")
    gateway_host: str = Field("127.0.0.1", description="address of the gateway; any other than this machine's own needs a token")
    gateway_port: int = Field(8080, ge=0, le=65535, description="port of the gateway; 0: any free one, which the log names")
    gateway_token: SecretStr | None = Field(
        None, description="what the gateway's readers must show; none: whoever reaches it may read and write"
    )
    gateway_token_file: Path | None = Field(None, description="a file that holds the gateway's token; wins over the token itself")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe level that is logged")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"unknown time zone {name!r}; use an IANA name such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.step_ms % self.tile_ms:
            raise ValueError(f"step_ms ({self.step_ms}) must be a whole number of tiles of tile_ms ({self.tile_ms})")
        if self.tile_retention_ms < 2 * self.step_ms:
            raise ValueError("tile_retention_ms must span at least two steps")
        if self.step_retention_ms < self.tile_retention_ms:
            raise ValueError("step_retention_ms must be at least tile_retention_ms")
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most a third of session_timeout_ms")
        if self.clock is Clock.SCALED and not (self.clock_origin_ms and self.clock_start_ms):
            raise ValueError("clock=scaled needs clock_origin_ms and clock_start_ms")
        return self

    @property
    def redis(self) -> str:
        """The Redis URL, from the secret file where one is named."""
        if self.redis_url_file is not None:
            return self.redis_url_file.read_text(encoding="utf-8").strip()
        return self.redis_url.get_secret_value()

    @property
    def gateway_secret(self) -> str | None:
        """The gateway's token, from the secret file where one is named; None: no token."""
        if self.gateway_token_file is not None:
            return self.gateway_token_file.read_text(encoding="utf-8").strip() or None
        return None if self.gateway_token is None else self.gateway_token.get_secret_value() or None

    @property
    def redis_address(self) -> str:
        """The Redis URL without user and password, for messages."""
        parts = urlsplit(self.redis)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def ahead_topics(self) -> tuple[str, ...]:
        """Topics of what the shop knows ahead, as far as they are named."""
        return tuple(name for name in (self.facts_topic, self.context_topic) if name is not None)

    @property
    def updates_topic(self) -> str:
        """The doorbell: one partition a shard, named by the namespace."""
        return f"{self.namespace}-product-updates"

    def group(self, worker: str) -> str:
        """Consumer group of a kind of worker, for instance `shop-ingest`."""
        return f"{self.namespace}-{worker}"


def table() -> str:
    """The table of `docs/settings.md`.

    >>> print(table().splitlines()[2])
    | `TRENDCAST_KAFKA_BOOTSTRAP` | `127.0.0.1:9092` | Kafka brokers, host:port, separated by commas |
    """
    rows = ["| variable | default | what it says |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        match field.default:
            case SecretStr():
                default = field.default.get_secret_value()
            case Path():
                default = "the shipped model"
            case None:
                default = ""
            case other:
                default = str(other).lower() if isinstance(other, bool) else str(other)
        rows.append(f"| `TRENDCAST_{name.upper()}` | {f'`{default}`' if default else ''} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
