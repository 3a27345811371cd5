"""The results as a page of Markdown: what holds and what does not, then everything that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from benchmarks.results import Fields, Results
from benchmarks.rows import PERCENTILES

VERDICTS: Final = {True: "yes", False: "**no**", None: "–"}
GIB: Final = 1 << 30

HEAD: Final = """\
# Benchmarks

Written by `python -m benchmarks`; `benchmarks/README.md` says what is compared with what. A figure is the
median over the rounds of one run, least and most of them in brackets; x is ours over theirs, the two measured
in turn. A figure without a bound is held to nothing.
"""


# --- one figure -----------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits or more, thousands set off."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """A number and its unit; rates keep theirs close."""
    return f"{number(value)}{unit}" if unit.startswith("/") else f"{number(value)} {unit}".rstrip()


def figure(check: Fields) -> str:
    """A check's figure, and between which values it lies."""
    text = quantity(check["figure"], check["unit"])
    least, most = min(check["values"]), max(check["values"])
    return text if number(least) == number(most) else f"{text} ({number(least)} to {number(most)})"


def bound(check: Fields) -> str:
    """What a check is held to."""
    if check["bound"] is None:
        return "–"
    kind = "at most" if check["at_most"] else "at least"
    return f"{kind} {quantity(check['bound'], check['unit'])}"


def kin(sides: dict[str, Fields]) -> str:
    """What the names of our side and its variants begin with: the first is ours."""
    ours = next(iter(sides), "")
    return "armin" if ours.startswith("armin") else ours


def compared(sides: dict[str, Fields]) -> tuple[str | None, str | None]:
    """Names of our side and of the first that is not a variant of it."""
    ours = next(iter(sides), None)
    return ours, next((name for name in sides if not name.startswith(kin(sides))), None)


def rate(sides: dict[str, Fields], name: str | None) -> str:
    """The absolute rate of a side, with its name."""
    return "" if name is None else f"{name} {quantity(sides[name]['rate_per_s'], '/s')}"


def percentiles(side: Fields) -> list[str]:
    """p50, p99 and p99.9 in milliseconds, empty where nothing was timed by itself."""
    latency = side.get("latency_ms", {})
    return [number(latency[name]) if name in latency else "" for name in PERCENTILES]


# --- tables ---------------------------------------------------------------------------------------------


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def verdicts(results: Results) -> str:
    """One line for each check."""
    head = [
        "#",
        "case",
        "what",
        "figure",
        "held to",
        "met",
        "ours",
        "theirs",
        "p50 / p99 / p99.9 ms, ours",
        "theirs",
    ]
    lines = [line for row in results.rows for line in _verdicts(row)]
    if len(results.runs) > 1:
        return table([*head, "run"], lines)
    return table(head, (line[:-1] for line in lines))


def _verdicts(row: Fields) -> Iterator[list[str]]:
    number_, title, run = row["number"], row["title"], row["run"]
    for what in ("missing", "failed"):
        if row[what] is not None:
            yield [number_, title, f"**{what}**: {row[what]}", *[""] * 7, run]
    ours, theirs = compared(row["sides"])
    sides = [
        *(rate(row["sides"], name) for name in (ours, theirs)),
        *("" if name is None else _timed(row["sides"][name]) for name in (ours, theirs)),
    ]
    for check in row["checks"]:
        yield [
            number_,
            title,
            check["what"],
            figure(check),
            bound(check),
            VERDICTS[check["met"]],
            *sides,
            run,
        ]
        title, sides = "", [""] * 4  # said once


def _timed(side: Fields) -> str:
    return " / ".join(filter(None, percentiles(side)))


def absolute(rows: Iterable[Fields]) -> str:
    """Every side of every row as it was measured."""
    head = ["#", "side", "runs", "operations a run", "a second", *(f"{name} ms" for name in PERCENTILES)]
    return table(head, (_side(row["number"], *side) for row in rows for side in row["sides"].items()))


def _side(number_: str, name: str, side: Fields) -> list[str]:
    operations = sorted(set(side["operations"]))
    several = " to ".join(number(count) for count in (operations[0], *operations[1:][-1:]))
    return [number_, name, str(side["runs"]), several, number(side["rate_per_s"]), *percentiles(side)]


# --- the rest -------------------------------------------------------------------------------------------


def particulars(row: Fields) -> str:
    """What a row's figures depend on, and how to repeat it."""
    lines = [f"### {row['number']}: {row['title']}", ""]
    lines += [f"- {name.replace('_', ' ')}: {_value(value)}" for name, value in row["setting"].items()]
    lines += [f"- {note}" for note in row["notes"]]
    lines.append(
        f"- took {row['seconds']:.0f} s, measured {row['date']}; `python -m benchmarks {row['number']}`"
    )
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)


def run(name: str, fields: Fields) -> str:
    """One run: of what, on what, with what."""
    machine = fields["machine"]
    commit = f"`{fields['commit'][:12]}`" if fields["commit"] else "no checkout"
    changed = " with changes that are not committed" if fields["dirty"] else ""
    sync = fields["sync_ms"]
    versions = [f"{what} {version or 'not here'}" for what, version in fields["versions"].items()]
    return "\n".join(
        [
            f"### Run {name}",
            "",
            f"- begun {fields['date']}{', quick: a look, not a measurement' if fields['quick'] else ''}",
            f"- commit {commit}{changed}",
            f"- {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / GIB:.0f} GiB;"
            f" {machine['system']}; {machine['filesystem']}",
            f"- a bare append of 4 KiB is synced in {number(sync['median'])} ms (median),"
            f" {number(sync['p99'])} ms (p99)",
            f"- {', '.join(versions)}",
            f"- again: `{fields['command']}`",
            "",
        ]
    )


def summary(results: Results) -> str:
    """How many checks are met, and which are not."""
    checks = [
        (row["number"], check) for row in results.rows for check in row["checks"] if check["met"] is not None
    ]
    unmet = [f"{number_} ({check['what']})" for number_, check in checks if not check["met"]]
    empty = [
        f"{row['number']} ({what})" for row in results.rows for what in ("missing", "failed") if row[what]
    ]
    lines = [f"{len(checks) - len(unmet)} of {len(checks)} bounds are met."]
    if unmet:
        lines.append(f"Not met: {', '.join(unmet)}.")
    if empty:
        lines.append(f"Not measured: {', '.join(empty)}.")
    return " ".join(lines) + "\n"


def markdown(results: Results, plots: Sequence[str] = ()) -> str:
    """The whole page; `plots` are files beside it."""
    rows = results.rows
    parts = [HEAD, summary(results), verdicts(results)]
    parts += [f"![{name.rpartition('.')[0]}]({name})\n" for name in plots]
    parts += ["## Both sides, in absolute figures\n", absolute(rows)]
    parts += ["## Where and with what\n", *(run(*each) for each in results.runs.items())]
    parts += ["## Settings and notes\n", *map(particulars, rows)]
    return "\n".join(parts)
