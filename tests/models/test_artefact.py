"""A model directory: what is written is read, and whatever is wrong with it is said plainly."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artefact import Artefact, UnusableArtefact, read, write
from models.features import FeatureSpec
from models.nowcast import NowcastRule
from models.seasons import DAY_MS, HOUR_MS
from models.weights import Sizes, initial

SPEC = FeatureSpec.for_step(HOUR_MS, ("orders",))
LEVELS = (0.1, 0.5, 0.9)


def untrained() -> Artefact:
    sizes = Sizes(SPEC.n_encoder_inputs, SPEC.n_decoder_inputs, len(LEVELS), hidden=4, width=6)
    profiles = tuple(np.ones(period, np.float32) for period in SPEC.periods)
    weights = initial(sizes, np.random.default_rng(1))
    return Artefact("test", SPEC, 24, 100, LEVELS, 4, 6, NowcastRule(), (0.5, 2.0), True, profiles, weights, {"seed": 1}, {"shop": {}})


def daily() -> Artefact:
    spec = FeatureSpec.for_step(DAY_MS, ("orders",))
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS), hidden=4, width=6)
    profiles = tuple(np.ones(period, np.float32) for period in spec.periods)
    pace = np.linspace(0.5, 1.5, 168, dtype=np.float32)
    return replace(untrained(), spec=spec, profiles=profiles, weights=initial(sizes, np.random.default_rng(1)), pace=pace)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    model = untrained()
    write(model, tmp_path / "deep" / "model")
    back = read(tmp_path / "deep" / "model")
    assert back.version == model.version
    assert (back.name, back.spec, back.levels, back.nowcast) == (model.name, model.spec, model.levels, model.nowcast)
    assert (back.training, back.backtest) == (model.training, model.backtest)
    assert all(np.array_equal(back.weights[name], value) for name, value in model.weights.items())


def test_a_model_of_days_knows_their_hours(tmp_path: Path) -> None:
    model = daily()
    write(model, tmp_path)
    assert np.array_equal(read(tmp_path).pace, model.pace)
    assert replace(model, pace=model.pace[::-1]).version != model.version


def test_the_version_follows_what_forecasts_depend_on() -> None:
    model = untrained()
    weights = dict(model.weights) | {"sum.bias": model.weights["sum.bias"] + np.float32(1e-6)}
    others = [
        replace(model, weights=weights),
        replace(model, nowcast=NowcastRule(weight=5.0)),
        replace(model, profiles=tuple(profile * 2 for profile in model.profiles)),
        replace(model, spec=replace(SPEC, timezone="Asia/Tokyo")),
    ]
    assert len({one.version for one in [model, *others]}) == 5
    assert replace(model, training={}, backtest={"x": {}}).version == model.version


def configuration(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(directory: Path) -> None:
        path = directory / "model.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return apply


def arrays(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(directory: Path) -> None:
        with np.load(directory / "weights.npz") as stored:
            values = dict(stored)
        change(values)
        np.savez(directory / "weights.npz", **values)

    return apply


class Evil:
    """Would run on unpickling."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (exec, ("raise SystemExit('executed')",))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda d: (d / "model.json").unlink(), "model.json is missing"),
    "no weights": (lambda d: (d / "weights.npz").unlink(), "weights.npz is missing"),
    "not JSON": (lambda d: (d / "model.json").write_text("{"), "cannot be read"),
    "not text": (lambda d: (d / "model.json").write_bytes(b"\xff\xfe\xfd"), "cannot be read"),
    "a list": (lambda d: (d / "model.json").write_text("[]"), "not a JSON object"),
    "another format": (configuration(lambda c: c.update(format=99)), "format is 99"),
    "a missing field": (configuration(lambda c: c.pop("horizon")), "incomplete or malformed"),
    "a wrong type": (configuration(lambda c: c.update(levels=5)), "incomplete or malformed"),
    "levels that fall": (configuration(lambda c: c.update(levels=[0.9, 0.5, 0.1])), "rising quantile levels"),
    "a size of zero": (configuration(lambda c: c.update(horizon=0)), "size below 1"),
    "an edited configuration": (configuration(lambda c: c.update(horizon=12)), "do not belong together"),
    "cut weights": (lambda d: (d / "weights.npz").write_bytes((d / "weights.npz").read_bytes()[:200]), "cannot be read"),
    "no archive": (lambda d: (d / "weights.npz").write_bytes(b"hello"), "cannot be read"),
    "a pickle": (lambda d: (d / "weights.npz").write_bytes(pickle.dumps(Evil())), "cannot be read"),
    "pickled arrays": (arrays(lambda v: v.update({"sum.bias": np.array([Evil()], object)})), "cannot be read"),
    "a missing array": (arrays(lambda v: v.pop("sum.bias")), "lacks"),
    "an unknown array": (arrays(lambda v: v.update(extra=v["sum.bias"])), "unknown"),
    "a wrong shape": (arrays(lambda v: v.update({"sum.bias": np.zeros(9, np.float32)})), "not float32"),
    "a wrong type of array": (arrays(lambda v: v.update({"sum.bias": v["sum.bias"].astype(np.float64)})), "not float32"),
    "not a number": (arrays(lambda v: v.update({"sum.bias": v["sum.bias"] * np.nan})), "not finite"),
    "other weights": (arrays(lambda v: v.update({"sum.bias": v["sum.bias"] + 1})), "do not belong together"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_plainly(damage: str, tmp_path: Path) -> None:
    write(untrained(), tmp_path)
    apply, says = DAMAGES[damage]
    apply(tmp_path)
    with pytest.raises(UnusableArtefact, match=says) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_importing_models_and_reading_one_loads_no_backend(repository: Path) -> None:
    heavy = "import sys, models, models.artefact, models.features, models.timeline, pathlib; "
    check = "models.artefact.read(pathlib.Path('models/default')); print(sorted({'tensorflow', 'keras', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy + check], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
