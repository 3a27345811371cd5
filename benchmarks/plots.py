"""The results as pictures: every ratio beside its bound, and the latencies of both sides."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.report import compared, kin, number
from benchmarks.results import Fields
from benchmarks.rows import PERCENTILES

RATIOS: Final = "ratios.png"
LATENCIES: Final = "latencies.png"

DPI: Final = 110
WIDTH: Final = 11.0  # inches
LINE: Final = 0.3  # inches for each line of a chart
AROUND: Final = 1.9  # inches for title, axis and legend
LABEL: Final = 64  # characters of a line's label
BAND: Final = 0.4  # half of a line's height that is painted

OURS: Final = "#1b6ca8"
THEIRS: Final = "#b35900"
MET: Final = {"marker": "o", "color": OURS, "label": "median, bound met"}
UNMET: Final = {"marker": "X", "color": "#c0392b", "label": "median, bound NOT met"}
UNHELD: Final = {"marker": "D", "color": "#777777", "label": "median, held to nothing"}
KINDS: Final = {True: MET, False: UNMET, None: UNHELD}
SHADE: Final = "#d9ead3"  # where a bound is met
MARKERS: Final = dict(zip(PERCENTILES, ("o", "s", "^"), strict=True))


class Line(NamedTuple):
    """One line of a chart: a check, or a side (`is_ours`), or a heading (neither)."""

    label: str
    fields: Fields | None = None
    is_ours: bool = True


def draw(rows: Sequence[Fields], out: Path) -> list[str]:
    """Write the pictures into a directory; returns their names, none where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: PLC0415 - it may not be installed
    except ImportError:
        return []
    matplotlib.use("Agg")
    charts = ((RATIOS, ratios(rows), _paint_ratios), (LATENCIES, latencies(rows), _paint_latencies))
    drawn = [(name, lines, paint) for name, lines, paint in charts if lines]
    for name, lines, paint in drawn:
        _save(lines, paint, out / name)
    return [name for name, _, _ in drawn]


def _save(lines: Sequence[Line], paint: Callable[[Any, Sequence[Line]], None], path: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415

    drawing, axes = pyplot.subplots(figsize=(WIDTH, AROUND + LINE * len(lines)), layout="constrained")
    try:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(axis="x", which="major", color="#cccccc", linewidth=0.7)
        axes.grid(axis="x", which="minor", color="#eeeeee", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(lines) - 0.4, -0.6)  # the first on top
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes, lines)
        drawing.savefig(path, dpi=DPI, metadata={"Software": None})
    finally:
        pyplot.close(drawing)


def _label(number_: str, text: str) -> str:
    return textwrap.shorten(f"{number_}: {text}", LABEL, placeholder=" …")


def _symbol(label: str, marker: str, **look: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D  # noqa: PLC0415

    return Line2D([], [], **{"linestyle": "", "marker": marker, "label": label, **look})


def _legend(axes: Any, entries: Sequence[Any]) -> None:
    axes.figure.legend(
        handles=entries, loc="outside lower center", ncols=len(entries), fontsize=8, frameon=False
    )


# --- ratios ---------------------------------------------------------------------------------------------


def ratios(rows: Sequence[Fields]) -> list[Line]:
    """A line for every ratio: first those that are held to a bound, then the others."""
    lines = [
        Line(_label(row["number"], check["what"] + _beside(row)), check)
        for row in rows
        for check in row["checks"]
        if check["unit"] == "x" and min(check["values"]) > 0
    ]
    return sorted(lines, key=lambda line: line.fields is not None and line.fields["bound"] is None)


def _beside(row: Fields) -> str:
    """Whom a row compares with, without the variant."""
    theirs = compared(row["sides"])[1]
    return "" if theirs is None else f" / {theirs.split(', ')[0]}"


def _paint_ratios(axes: Any, lines: Sequence[Line]) -> None:
    checks = [line.fields for line in lines if line.fields is not None]
    shown = [value for check in checks for value in (*check["values"], check["bound"] or 1.0)]
    axes.set_xlim(min(*shown, 0.5) / 2, max(*shown, 2.0) * 2)
    axes.axvline(1, color="#888888", linewidth=1)
    for at, check in enumerate(checks):
        if check["bound"] is not None:
            _paint_bound(axes, at, check)
        _paint_pairs(axes, at, check)
    kinds = {check["met"] for check in checks}
    _legend(
        axes,
        [
            *(_symbol(markersize=8, **kind) for met, kind in KINDS.items() if met in kinds),
            _symbol("one pair", "o", markersize=4, markerfacecolor="none", color="#555555"),
            _symbol("bound", "|", markersize=12, markeredgewidth=2, color="black"),
            _symbol("where it is met", "s", markersize=10, color=SHADE),
        ],
    )
    axes.set_xlabel("ours / theirs")
    axes.set_title("Ratios, pair by pair, and what they are held to", loc="left")


def _paint_bound(axes: Any, at: int, check: Fields) -> None:
    bound, at_most = check["bound"], check["at_most"]
    end = axes.get_xlim()[0 if at_most else 1]
    axes.fill_betweenx([at - BAND, at + BAND], bound, end, color=SHADE, linewidth=0, zorder=0.5)
    axes.plot([bound, bound], [at - BAND, at + BAND], color="black", linewidth=2, zorder=2)
    aside = {"xytext": (4, 0), "ha": "left"} if at_most else {"xytext": (-4, 0), "ha": "right"}
    text = f"{'≤' if at_most else '≥'} {bound:g}"
    axes.annotate(text, (end, at), textcoords="offset points", fontsize=7, va="center", **aside)


def _paint_pairs(axes: Any, at: int, check: Fields) -> None:
    kind, values = KINDS[check["met"]], check["values"]
    axes.scatter(
        values, [at] * len(values), s=16, facecolors="none", edgecolors=kind["color"], linewidths=0.9
    )
    axes.scatter([check["figure"]], [at], s=52, color=kind["color"], marker=kind["marker"], zorder=3)


# --- latencies ------------------------------------------------------------------------------------------


def latencies(rows: Sequence[Fields]) -> list[Line]:
    """A line for every side whose single operations were timed, under its row's title."""
    return [line for row in rows for line in _latencies(row)]


def _latencies(row: Fields) -> Iterator[Line]:
    sides = {name: side for name, side in row["sides"].items() if "latency_ms" in side}
    if sides:
        yield Line(f"{row['number']}: {row['title']}")
    for name, side in sides.items():
        yield Line(textwrap.shorten(name, LABEL, placeholder=" …"), side, name.startswith(kin(row["sides"])))


def _paint_latencies(axes: Any, lines: Sequence[Line]) -> None:
    for at, (label, line) in enumerate(zip(axes.get_yticklabels(), lines, strict=True)):
        if line.fields is None:
            label.set_visible(False)
            axes.text(0.005, at, line.label, transform=axes.get_yaxis_transform(), fontsize=8, va="center")
            axes.axhline(at - 0.5, color="#888888", linewidth=0.7)
        else:
            _paint_latency(axes, at, line.fields["latency_ms"], line.is_ours)
    _legend(
        axes,
        [
            *(_symbol(name, marker, color="#555555") for name, marker in MARKERS.items()),
            _symbol("ours", "", linestyle="-", color=OURS),
            _symbol("theirs", "", linestyle="--", color=THEIRS),
        ],
    )
    axes.set_xlabel("milliseconds")
    axes.set_title("Latencies of what was waited for, one operation at a time", loc="left")


def _paint_latency(axes: Any, at: int, latency: dict[str, float], is_ours: bool) -> None:
    color, style, face = (OURS, "-", OURS) if is_ours else (THEIRS, "--", "white")
    axes.plot([latency[name] for name in MARKERS], [at] * len(MARKERS), style, color=color, linewidth=1.5)
    for name, marker in MARKERS.items():
        axes.scatter([latency[name]], [at], marker=marker, s=32, color=face, edgecolors=color, zorder=3)
    text = " / ".join(number(latency[name]) for name in MARKERS)
    axes.annotate(text, (latency["p99.9"], at), (8, 0), textcoords="offset points", fontsize=7, va="center")
