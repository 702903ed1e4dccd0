"""Products per second of `advance` and `read_out`, beside `keras.Model.predict` on a window, which is how such models are usually served.

    make bench-inference
    KERAS_BACKEND=jax python -m benchmarks.inference --json inference.json

NumPy in, NumPy out, features included. `predict` gets the same LSTM over the last 96 steps, its inputs ready-made. The roof is what a large
matrix product reaches on the same device in the same run.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import rig
from models.forecaster import BATCHES, SUMS, Forecaster

WINDOW: Final = 96
STEP: Final = 480_000
WEEK: Final = 168
# Each figure is the median of repetitions that take at least this long together.
SECONDS: Final = 2.0


def median_seconds(call: Callable[[], object]) -> float:
    """Median time of a call, after two that are not counted."""
    call()
    call()
    took: list[float] = []
    while sum(took) < SECONDS or len(took) < 5:
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return float(np.median(took))


def roof_flops() -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    from models.network import compiled

    n = 2048
    square = np.random.default_rng(0).random((n, n), np.float32)
    from keras import ops

    product = compiled(lambda held, a: ops.sum(ops.matmul(ops.matmul(a, held["b"]), held["b"])), {"b": square}, lambda: None)
    return 4 * n**3 / median_seconds(lambda: product(square))


def flops(forecaster: Forecaster) -> dict[str, float]:
    """Operations per product in matrix products, which is nearly all."""
    weights = forecaster.artefact.weights
    size = {name: float(value.size) for name, value in weights.items()}
    rows = forecaster.horizon + SUMS
    lstm = 2 * (size["lstm.kernel"] + size["lstm.recurrent"])
    decoder = 2 * (size["context.kernel"] + rows * (size["target.kernel"] + size["inner.kernel"] + size["step.kernel"]))
    return {"advance": lstm, "read_out": decoder, "predict": WINDOW * lstm}


def predict_model(forecaster: Forecaster) -> Any:
    """A plain Keras model over a window, with as many outputs as the forecaster's horizon has."""
    import keras

    outputs = forecaster.horizon * (1 + len(forecaster.levels))
    inputs = keras.Input((WINDOW, forecaster.spec.n_encoder_inputs))
    hidden = keras.layers.LSTM(forecaster.state_size // 2)(inputs)
    return keras.Model(inputs, keras.layers.Dense(outputs)(hidden))


def measure(forecaster: Forecaster, n: int) -> dict[str, float]:
    """Products per second of our calls with `n` products."""
    rng = np.random.default_rng(1)
    features, state = forecaster.fresh(n)
    demand = rng.poisson(2.0, (n, 1 + len(forecaster.spec.streams))).astype(np.float32)
    for at in range(STEP - WEEK, STEP):
        forecaster.advance(features, state, demand, np.full(n, at), in_place=True)
    step, elapsed, sums = np.full(n, STEP), np.full(n, 0.3, np.float32), np.array([7, 14, 3]) * 24
    seconds = {
        "advance": median_seconds(lambda: forecaster.advance(features, state, demand, step, in_place=True)),
        "read_out": median_seconds(lambda: forecaster.read_out(features, state, step, demand, elapsed, sums)),
    }
    return {"batch": n, **{name: n / each for name, each in seconds.items()}}


def measure_predict(usual: Any, inputs: int, n: int) -> float:
    """Products per second of Keras' own `predict` on a window."""
    window = np.random.default_rng(1).normal(size=(n, WINDOW, inputs)).astype(np.float32)
    return n / median_seconds(lambda: usual.predict(window, batch_size=n, verbose=0))


def device() -> str:
    """Where it ran, in words."""
    import keras

    if keras.backend.backend() == "jax":
        from importlib import import_module

        jax: Any = import_module("jax")
        return f"{jax.devices()[0].device_kind} (jax {jax.__version__})"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models" / "default")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/inference.json")
    chosen = arguments.parse_args()
    import keras

    busy = os.getloadavg()[0]
    forecaster = Forecaster.load(chosen.model)
    begin = time.perf_counter()
    forecaster.warm_up()
    warm_up = time.perf_counter() - begin
    rows = [measure(forecaster, n) for n in BATCHES]
    # Last: what Keras starts for it goes on in the background.
    usual = predict_model(forecaster)
    for row, n in zip(rows, BATCHES, strict=True):
        row["predict"] = measure_predict(usual, forecaster.spec.n_encoder_inputs, n)
    roof, each = roof_flops(), flops(forecaster)
    backend = f"{keras.backend.backend()}, Keras {keras.__version__}"
    print(f"{backend} on {device()}; {forecaster.horizon} steps + {SUMS} sums; load before {busy:.1f}; roof {roof / 1e9:.0f} GFLOP/s; ")
    print(f"all shapes compiled in {warm_up:.1f} s; thousand products per second (share of the roof):\n")
    print("| batch | advance | read_out | predict, window 96 | advance / predict |\n|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row[name] / 1e3:,.1f} ({row[name] * each[name] / roof:.0%})" for name in ("advance", "read_out", "predict")]
        print(f"| {row['batch']:,.0f} | {' | '.join(cells)} | {row['advance'] / row['predict']:.0f}× |")
    figures = {"backend": backend, "device": device(), "load_before": busy, "roof_flops": roof, "warm_up_s": warm_up, "rows": rows}
    print(f"\nwritten: {rig.write('inference', figures, chosen.json)}")


if __name__ == "__main__":
    main()
