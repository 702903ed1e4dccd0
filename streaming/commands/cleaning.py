"""Cleaning as a user asks for it and sees it: options to a policy, changes to a table."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.cleaning import Change, Policy
    from models.dataset import Panel


def policy(skipped: Sequence[str], adjustment_ids: str | None, outliers: float | None) -> "Policy":
    """The default rules with what a user has asked for. Raises UserError."""
    from dataclasses import replace

    from models.cleaning import OUTLIERS, RULES, Policy

    unknown = sorted(set(skipped) - set(RULES))
    if unknown:
        raise UserError(f"there is no rule {', '.join(unknown)}; choose from {', '.join(RULES)}")
    chosen = Policy().without(skipped)
    if outliers is not None:
        chosen = replace(chosen, rules=(*chosen.rules, OUTLIERS), outlier_spreads=outliers)
    if adjustment_ids is not None:
        try:
            re.compile(adjustment_ids)
        except re.error as error:
            raise UserError(f"--adjustment-ids {adjustment_ids!r} is no regular expression: {error}") from error
        chosen = replace(chosen, adjustment_ids=adjustment_ids)
    return chosen


def unusable_rows(skipped: dict[str, int], panel: "Panel") -> "Change":
    """What the reader of a log left out, as a line of the report."""
    from models.cleaning import Change

    units = float(panel.demand[..., 0].sum(dtype="float64"))
    examples = tuple(f"{reason}: {rows:,}" for reason, rows in sorted(skipped.items(), key=lambda item: -item[1]))
    return Change("unusable rows", "left out by the reader", 0, sum(skipped.values()), units, units, examples)


def print_changes(title: str, changes: "Sequence[Change]", console: "Console") -> None:
    """What cleaning did, rule by rule."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0))
    for column in ("rule", "did"):
        table.add_column(column)
    for column in ("products", "cells", "units before", "units after"):
        table.add_column(column, justify="right")
    table.add_column("examples")
    for change in changes:
        units = (f"{change.units_before:,.0f}", f"{change.units_after:,.0f}")
        table.add_row(change.rule, change.did, f"{change.products:,}", f"{change.cells:,}", *units, "; ".join(change.examples))
    console.print(table)
