"""What is said of an alert: identity, severity, title, window, drivers. Plain values; the worker makes the topic's message of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from statistics import NormalDist

from models import drivers
from models.alerts import REASONS, Action, AlertPolicy, Kind, Reason, Transitions
from models.known_future import KnownFuture


class Severity(StrEnum):
    """How far the window is from its expectation."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message's worth of an alert. The worker adds what it alone knows: model, `replay`, `valid_until`, runbook."""

    alert_id: str
    fingerprint: str
    sequence: int  # tile index: grows within an alert, and survives a rollback of the store
    action: Action
    kind: Kind
    severity: Severity
    title: str
    product_id: str
    starts_at_ms: int
    updated_at_ms: int  # end of the window
    ends_at_ms: int | None  # of a resolved one
    reason: Reason | None  # of a resolved one
    observed: float  # units in [starts_at, updated_at)
    expected: float  # units that the forecast expected there
    expected_quantiles: tuple[float, ...]  # at the levels asked for
    score: float
    drivers: tuple[tuple[str, float], ...]  # names and effects in units, greatest first; they add up to observed - expected

    @property
    def firing(self) -> bool:
        """Whether the alert goes on."""
        return self.action is not Action.RESOLVE

    @property
    def updated(self) -> bool:
        """Whether it was said before that it fires."""
        return self.action is Action.UPDATE


def fingerprint(kind: Kind, product_id: str) -> str:
    """The same trouble of the same product, whenever it comes: 32 hexadecimal digits."""
    return _digest(kind.value, product_id)


def alert_id(kind: Kind, product_id: str, starts_at_ms: int) -> str:
    """One alert, from its first message to its last: 32 hexadecimal digits.

    >>> alert_id(Kind.SPIKE, "SKU-1", 0) == alert_id(Kind.SPIKE, "SKU-1", 300_000)
    False
    """
    return _digest(fingerprint(kind, product_id), str(starts_at_ms))


def messages(
    transitions: Transitions,
    product_ids: Sequence[str],
    policy: AlertPolicy,
    *,
    tile_ms: int,
    levels: Sequence[float],
    shop: KnownFuture | None = None,
) -> list[Alert]:
    """An alert for each transition, in its order. `product_ids`: of the batch's rows; `shop`: what the shop said of the batch's products."""
    effects = drivers.split(transitions.funnel, transitions.usual, transitions.expected)
    if shop is not None:
        first, last = (tile * tile_ms // shop.step_ms for tile in (transitions.start_tile, transitions.tile))
        effects = drivers.told(effects, drivers.Facts.of(shop, transitions.rows, first, last))
    return list(_messages(transitions, product_ids, policy, tile_ms, levels, drivers.ranked(effects)))


def _messages(
    t: Transitions,
    product_ids: Sequence[str],
    policy: AlertPolicy,
    tile_ms: int,
    levels: Sequence[float],
    said: Sequence[Sequence[tuple[str, float]]],
) -> Iterator[Alert]:
    for i, row in enumerate(t.rows.tolist()):
        product_id, action = product_ids[row], Action(int(t.action[i]))
        kind = Kind.SPIKE if t.spike[i] else Kind.DROP
        starts_at_ms, ends_at_ms = int(t.start_tile[i]) * tile_ms, (int(t.tile[i]) + 1) * tile_ms
        resolved = action is Action.RESOLVE
        reason = REASONS[int(t.reason[i])] if resolved else None
        observed, expected = float(t.observed[i]), float(t.expected[i])
        yield Alert(
            alert_id=alert_id(kind, product_id, starts_at_ms),
            fingerprint=fingerprint(kind, product_id),
            sequence=int(t.tile[i]),
            action=action,
            kind=kind,
            severity=_severity(kind, observed, expected, policy),
            title=_title(kind, product_id, observed, expected, reason),
            product_id=product_id,
            starts_at_ms=starts_at_ms,
            updated_at_ms=ends_at_ms,
            ends_at_ms=ends_at_ms if resolved else None,
            reason=reason,
            observed=observed,
            expected=expected,
            expected_quantiles=quantiles(expected, float(t.expected_sd[i]), levels),
            score=float(t.score[i]),
            drivers=tuple(said[i]),
        )


def quantiles(mean: float, sd: float, levels: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of a gamma variable with this mean and standard deviation, by Wilson and Hilferty's cube of a normal one.

    >>> [round(q, 1) for q in quantiles(100.0, 30.0, [0.1, 0.5, 0.9])]
    [64.0, 97.0, 139.8]
    """
    if mean <= 0 or sd <= 0:
        return tuple(max(mean, 0.0) for _ in levels)
    ninth = (sd / mean) ** 2 / 9
    return tuple(float(mean * max(1 - ninth + NormalDist().inv_cdf(level) * ninth**0.5, 0.0) ** 3) for level in levels)


def _severity(kind: Kind, observed: float, expected: float, policy: AlertPolicy) -> Severity:
    high, low = (observed, expected) if kind is Kind.SPIKE else (expected, observed)
    return Severity.CRITICAL if high >= policy.critical_factor * low else Severity.WARNING


def _title(kind: Kind, product_id: str, observed: float, expected: float, reason: Reason | None) -> str:
    if reason is not None:
        return f"{kind.value.capitalize()} of {product_id} is over ({reason.value.replace('_', ' ')})"
    return f"{kind.value.capitalize()} of {product_id}: {observed:.4g} units sold where {expected:.4g} were expected"


def _digest(*parts: str) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)  # with its length, so that no two lists of parts read alike
    return digest.hexdigest()
