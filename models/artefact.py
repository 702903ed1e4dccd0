"""A model on disk: a directory of `model.json` and `weights.npz`. Reading one executes nothing and checks everything."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from models import pace
from models.features import F32, FeatureSpec
from models.nowcast import NowcastRule
from models.seasons import HOUR_MS
from models.weights import Sizes, shapes

FORMAT: Final = 3
_CONFIGURATION: Final = "model.json"
_WEIGHTS: Final = "weights.npz"
_PACE: Final = "pace"
FILES: Final = (_CONFIGURATION, _WEIGHTS)


class UnusableArtefact(Exception):
    """The directory holds no model that this program can serve; the message says what is wrong and what to do."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{directory} is not a usable model: {reason}; train one with `trendcast train --out DIRECTORY`")
        self.directory = directory
        self.reason = reason


@dataclass(frozen=True)
class Artefact:
    """All of a model. `weights` are those of `models.network.shapes`; `profiles` the shop's seasonal profiles, frozen, one per period."""

    name: str
    spec: FeatureSpec
    horizon: int  # single steps
    longest_sum: int  # steps
    levels: tuple[float, ...]
    hidden: int
    width: int
    nowcast: NowcastRule
    volume_limits: tuple[float, float]  # typical demand per step between slow, medium and fast products
    whole_units: bool  # demand comes in whole units: so do its quantiles
    profiles: tuple[F32, ...]
    weights: Mapping[str, F32]
    training: Mapping[str, Any] = field(default_factory=dict)  # data fingerprint, options, losses: whatever JSON holds
    backtest: Mapping[str, Any] = field(default_factory=dict)  # measured on data that it was not trained on
    pace: F32 = field(default_factory=pace.even)  # (168,) demand by local hour of the week, see `models.pace`; of steps longer than an hour

    @property
    def version(self) -> str:
        """12 hexadecimal digits over everything that a forecast depends on."""
        return digest(self.configuration(), self.arrays())[:12]

    def configuration(self) -> dict[str, Any]:
        """What a forecast depends on besides the arrays, as JSON."""
        return {
            "format": FORMAT,
            "name": self.name,
            "features": self.spec.to_json(),
            "horizon": self.horizon,
            "longest_sum": self.longest_sum,
            "levels": list(self.levels),
            "hidden": self.hidden,
            "width": self.width,
            "nowcast": asdict(self.nowcast),
            "volume_limits": list(self.volume_limits),
            "whole_units": self.whole_units,
        }

    def arrays(self) -> dict[str, F32]:
        named = {f"profile.{period}": profile for period, profile in zip(self.spec.periods, self.profiles, strict=True)}
        return {**named, **({_PACE: self.pace} if self.spec.step_ms > HOUR_MS else {}), **self.weights}


def digest(configuration: Mapping[str, Any], arrays: Mapping[str, F32]) -> str:
    """SHA-256 over a configuration and named arrays; the bytes of an npz file would differ by its time of writing."""
    sha = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(f"{name}{arrays[name].shape}".encode())
        sha.update(np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return sha.hexdigest()


def write(artefact: Artefact, directory: Path) -> None:
    """Write both files; a directory that held a model before is overwritten."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = artefact.arrays()
    np.savez(directory / _WEIGHTS, allow_pickle=False, **arrays)
    configuration = artefact.configuration()
    document = {
        **configuration,
        "digest": digest(configuration, arrays),
        "training": dict(artefact.training),
        "backtest": dict(artefact.backtest),
    }
    (directory / _CONFIGURATION).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(directory: Path) -> Artefact:
    """The model in `directory`. Raises UnusableArtefact."""
    document = _read_configuration(directory)
    try:
        spec = FeatureSpec.from_json(document["features"])
        names = {
            key: document[key]
            for key in (
                *("format", "name", "features", "horizon", "longest_sum", "levels", "hidden", "width"),
                *("nowcast", "volume_limits", "whole_units"),
            )
        }
        horizon, longest, hidden, width = (int(document[key]) for key in ("horizon", "longest_sum", "hidden", "width"))
        levels = tuple(float(level) for level in document["levels"])
        rule = NowcastRule(**{name: float(document["nowcast"][name]) for name in NowcastRule.__slots__})
        slow, fast = (float(limit) for limit in document["volume_limits"])
        whole_units = bool(document["whole_units"])
        expected_digest = str(document["digest"])
        training, backtest = dict(document["training"]), dict(document["backtest"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableArtefact(directory, f"{_CONFIGURATION} is incomplete or malformed ({error!r})") from error
    if not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise UnusableArtefact(directory, f"{_CONFIGURATION} names no rising quantile levels between 0 and 1")
    if min(horizon, longest, hidden, width, spec.step_ms, spec.recent) < 1:
        raise UnusableArtefact(directory, f"{_CONFIGURATION} holds a size below 1")
    arrays = _read_arrays(directory, _expected_shapes(spec, len(levels), hidden, width))
    if digest(names, arrays) != expected_digest:
        raise UnusableArtefact(directory, f"{_WEIGHTS} and {_CONFIGURATION} do not belong together, or one is damaged")
    profiles = tuple(arrays.pop(f"profile.{period}") for period in spec.periods)
    rhythm = arrays.pop(_PACE, pace.even())
    name, limits = str(document["name"]), (slow, fast)
    known = (name, spec, horizon, longest, levels, hidden, width, rule, limits, whole_units, profiles, arrays)
    return Artefact(*known, training, backtest, rhythm)


def _read_configuration(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIGURATION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableArtefact(directory, f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise UnusableArtefact(directory, f"{path.name} cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise UnusableArtefact(directory, f"{path.name} is not a JSON object")
    if document.get("format") != FORMAT:
        raise UnusableArtefact(directory, f"its format is {document.get('format')!r}, this program reads {FORMAT}")
    return document


def _expected_shapes(spec: FeatureSpec, levels: int, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, levels, hidden, width, len(spec.covariates))
    rhythm = {_PACE: (pace.HOURS,)} if spec.step_ms > HOUR_MS else {}
    return {**{f"profile.{period}": (period,) for period in spec.periods}, **rhythm, **shapes(sizes)}


def _read_arrays(directory: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, F32]:
    path = directory / _WEIGHTS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise UnusableArtefact(directory, f"{path.name} is missing") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnusableArtefact(directory, f"{path.name} cannot be read ({error})") from error
    if arrays.keys() != expected.keys():
        missing, unknown = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
        raise UnusableArtefact(directory, f"{path.name} lacks {missing or 'nothing'} and holds {unknown or 'nothing'} unknown")
    for name, shape in expected.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.float32:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise UnusableArtefact(directory, f"{name} in {path.name} is {found}, not float32 {shape}")
        if not np.isfinite(arrays[name]).all():
            raise UnusableArtefact(directory, f"{name} in {path.name} is not finite")
    return arrays
