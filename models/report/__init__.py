"""A backtest as one page of HTML that needs nothing else: for planners first, then for those who build models."""

from pathlib import Path

import numpy as np

from models.report import residuals, sections
from models.report.findings import findings
from models.report.markup import page
from models.report.plots import require
from models.report.study import Study

__all__ = ["Study", "html", "require", "write"]


def html(study: Study) -> str:
    """The page; the same study gives the same page. Raises ImportError without matplotlib."""
    bench = study.bench
    parts = {
        "models": ("Models", sections.models(study)),
        "volume": ("Volume", sections.volume(study)),
        "products": ("Products", sections.products(study)),
        "calibration": ("Calibration", sections.calibration(study, np.random.default_rng(1))),
        "errors": ("Errors", residuals.errors(study)),
        "training": ("Training", residuals.training(study)),
        "cleaning": ("Cleaning", sections.cleaning(study)),
    }
    shown = {anchor: part for anchor, part in parts.items() if part[1]}
    cutoffs = ", ".join(study.date(cutoff) for cutoff in bench.cutoffs)
    subtitle = (
        f"{len(bench.panel.product_ids):,} products · {study.steps(bench.horizon)} ahead from {len(bench.cutoffs)} "
        f"cut-off{'s' * (len(bench.cutoffs) > 1)} ({cutoffs}) · {bench.dates[0]:%Y-%m-%d} to {bench.dates[-1]:%Y-%m-%d}"
    )
    foot = f"Panel {bench.panel.fingerprint}. How each measure is computed: models/metrics.py; how to read this page: docs/report.md."
    contents = {anchor: name for anchor, (name, _) in shown.items()}
    return page(study.title, subtitle, findings(study), contents, "".join(body for _, body in shown.values()), foot)


def write(study: Study, path: Path) -> None:
    """Write the page, with the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(study), encoding="utf-8")
