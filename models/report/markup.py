"""HTML of the report: one page with everything in it. Every text that is not ours passes `escape`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Final

NOTHING: Final = "–"
_MINUS: Final = "\N{MINUS SIGN}"


def number(value: float) -> str:
    """Three or four digits that count.

    >>> [number(value) for value in (0.63291, -12.345, 1234567.0, float("nan"))]
    ['0.633', '−12.3', '1,234,567', '–']
    """
    if not math.isfinite(value):
        return NOTHING
    digits = next((digits for limit, digits in ((10, 3), (100, 1)) if abs(value) < limit), 0)
    return f"{value:,.{digits}f}".replace("-", _MINUS)


def units(value: float) -> str:
    """Of products.

    >>> units(1234.4), units(19.0), units(0.37)
    ('1,234', '19', '0.4')
    """
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def percent(share: float) -> str:
    """Two digits that count, kept in one line with their sign.

    >>> [percent(share).replace("\N{NO-BREAK SPACE}", "_") for share in (0.0638, 0.8, -0.11, float("nan"))]
    ['6.4_%', '80_%', '−11_%', '–']
    """
    if not math.isfinite(share):
        return NOTHING
    value = 100 * share
    digits = 1 if 0 < abs(value) < 9.95 else 0
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}%".replace("-", _MINUS)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table; `best` ones are set in bold."""

    text: str
    best: bool = False


def table(caption: str, head: Sequence[tuple[str, str]], rows: Sequence[tuple[str, Sequence[Cell]]], marked: str | None = None) -> str:
    """A table with a row for each name; `head`: titles, that of the names first, with what they mean. All texts are escaped."""
    titles = "".join(f'<th scope="col">{_abbreviation(title, meaning)}</th>' for title, meaning in head)
    body = "".join(_row(name, cells, name == marked) for name, cells in rows)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _abbreviation(title: str, meaning: str) -> str:
    return f'<abbr title="{escape(meaning)}">{escape(title)}</abbr>' if meaning else escape(title)


def _row(name: str, cells: Sequence[Cell], marked: bool) -> str:
    values = "".join(f"<td>{f'<strong>{escape(cell.text)}</strong>' if cell.best else escape(cell.text)}</td>" for cell in cells)
    return f'<tr{" class=marked" if marked else ""}><th scope="row">{escape(name)}</th>{values}</tr>'


def legend(key: Mapping[str, str]) -> str:
    """Names of what drawings show, by the class of their swatch."""
    swatches = "".join(f'<li><span class="swatch {kind}"></span>{escape(name)}</li>' for kind, name in key.items())
    return f'<ul class="key">{swatches}</ul>'


def figure(title: str, drawing: str, caption: str, key: Mapping[str, str] | None = None) -> str:
    """A drawing under its title and above how to read it."""
    return f"<figure><h3>{escape(title)}</h3>{legend(key) if key else ''}{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def section(anchor: str, title: str, introduction: str, *parts: str) -> str:
    """A section, or nothing where it has no parts; `introduction` is escaped, the parts are HTML."""
    shown = [part for part in parts if part]
    if not shown:
        return ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2><p>{escape(introduction)}</p>{"".join(shown)}</section>'


def grid(*figures: str, narrow: bool = False) -> str:
    """Figures beside each other where there is room: two in a row, `narrow` ones three."""
    shown = "".join(figures)
    return f'<div class="grid{" three" if narrow else ""}">{shown}</div>' if shown else ""


def definitions(title: str, entries: Mapping[str, str]) -> str:
    """A list of terms, folded."""
    body = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in entries.items())
    return f"<details><summary>{escape(title)}</summary><dl>{body}</dl></details>"


def page(title: str, subtitle: str, findings: Sequence[str], contents: Mapping[str, str], body: str, foot: str) -> str:
    """The whole document. `contents`: titles by anchor; `body` is HTML, the rest is escaped."""
    text = _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        findings="".join(f"<li>{escape(sentence)}</li>" for sentence in findings),
        contents="".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in contents.items()),
        body=body,
        foot=escape(foot),
        style=_STYLE,
    )
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<p class="kicker">trendcast · backtest</p>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
<ol class="findings" aria-label="In short">$findings</ol>
<nav aria-label="Contents"><ul>$contents</ul></nav>
</header>
<main>$body</main>
<footer><p>$foot</p></footer>
</body>
</html>
""")

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #f7f7f4; --card: #ffffff; --ink: #1b2026; --muted: #5a646e; --rule: #dcdfda;
  --accent: #0b6f8a; --second: #bf5415; --others: #9aa3ab; --wash: #e6f1f3; }
@media (prefers-color-scheme: dark) { :root { --paper: #121518; --card: #1a1e22; --ink: #e9e9e5; --muted: #a0a9b2; --rule: #343b42;
  --accent: #55bcd8; --second: #f29a63; --others: #717b84; --wash: #17303a; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 32px); }
header { padding-top: clamp(24px, 5vw, 56px); }
.kicker { margin: 0; color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: .2em 0; font-size: clamp(1.6rem, 4.5vw, 2.5rem); line-height: 1.15; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .2em; font-size: 1.35rem; letter-spacing: -.01em; }
h3 { margin: 0 0 .35em; font-size: .98rem; overflow-wrap: anywhere; }
.subtitle, section > p, caption, figcaption, footer { color: var(--muted); }
.subtitle { margin: 0 0 1.4em; }
section > p { margin: 0 0 1em; max-width: 70ch; }
.findings { margin: 0; padding: 1.1em 1.2em 1.1em 2.6em; background: var(--wash); border-left: 4px solid var(--accent); border-radius: 4px;
  font-size: 1.08rem; }
.findings li + li { margin-top: .5em; }
nav ul { display: flex; flex-wrap: wrap; gap: .3em 1.2em; margin: 1.2em 0 0; padding: 0; list-style: none; font-size: .92rem; }
a { color: var(--accent); }
section { margin: 2.6em 0 0; padding-top: 1.4em; border-top: 1px solid var(--rule); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 16px; margin: 16px 0; }
.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); } .grid .table { margin: 0; align-self: start; }
figure, .table, details { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; }
figure svg { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: .6em; font-size: .86rem; line-height: 1.45; }
.key { display: flex; flex-wrap: wrap; gap: .1em 1em; margin: 0 0 .4em; padding: 0; list-style: none; font-size: .82rem; color: var(--muted); }
.swatch { display: inline-block; width: 1em; height: .55em; margin-right: .4em; border-radius: 2px; background: var(--others); }
.accent { background: var(--accent); } .second { background: var(--second); } .ink { background: var(--ink); }
.wide { background: var(--accent); opacity: .22; } .narrow { background: var(--accent); opacity: .5; }
.table, details { margin: 16px 0; } .table { overflow-x: auto; padding: 4px 0 0; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { padding: 8px 16px; text-align: left; font-size: .86rem; }
caption span { display: inline-block; position: sticky; left: 16px; max-width: min(100%, 82vw); }
th, td { padding: .42em .55em; text-align: right; white-space: nowrap; border-top: 1px solid var(--rule); }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem; }
th:first-child { position: sticky; left: 0; z-index: 1; padding-left: 16px; text-align: left; background: var(--card); max-width: 44vw;
  overflow: hidden; text-overflow: ellipsis; }
tbody th { font-weight: 500; } .marked th, .marked td, .marked th:first-child { background: var(--wash); }
td strong { color: var(--accent); }
abbr { text-decoration: none; cursor: help; }
summary { cursor: pointer; font-weight: 600; font-size: .92rem; }
dl { display: grid; grid-template-columns: minmax(5em, max-content) 1fr; gap: .35em 1.1em; margin: .9em 0 0; font-size: .88rem; }
dt { font-weight: 600; } dd { margin: 0; color: var(--muted); }
footer { margin-top: 3em; padding-bottom: 3em; font-size: .84rem; }
@media (max-width: 520px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5em; } }
@media print { body { background: none; } figure, .table { break-inside: avoid; } }
"""
