"""Results of a benchmark: tables in Markdown, JSON with the environment, plots; and its command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _harness import UNSTABLE, Figure, Timing, environment, one_thread, speed_ratio


@dataclass
class Result:
    """Tables, figures and remarks of one script."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)  # title -> rows, the first one the heading
    timings: dict[str, Timing] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=environment)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Result:
        raw = json.loads(text)
        raw["timings"] = {k: Timing(v["name"], tuple(v["samples"])) for k, v in raw["timings"].items()}
        raw["figures"] = {k: Figure(**v) for k, v in raw["figures"].items()}
        return cls(**raw)

    def add_rates(self, title: str, timings: Iterable[Timing], reference: Timing | None = None) -> None:
        """A table of images per second, and of the ratio to a reference."""
        rows = [["", "images/s", "us per image", "IQR", *(["x " + reference.name] if reference else [])]]
        for t in timings:
            ratio = [f"{speed_ratio(t, reference).value:.3g}"] if reference else []
            rows.append([t.name, f"{t.rate:,.0f}" if t.rate >= 10 else f"{t.rate:.2f}", *_microseconds(t), *ratio])
        self.tables[title] = rows

    def add_times(self, title: str, timings: Iterable[Timing]) -> None:
        """A table of microseconds per image."""
        self.tables[title] = [["", "us per image", "IQR"], *([t.name, *_microseconds(t)] for t in timings)]

    def keep(self, timings: dict[str, Timing]) -> None:
        self.timings.update(timings)

    def markdown(self) -> str:
        parts = [f"## {self.name}"]
        for title, rows in self.tables.items():
            parts.append(f"{title}\n\n{table(rows)}")
        if any(t.unstable for t in self.timings.values()):
            parts.append(f"`!` marks an interquartile range above {UNSTABLE:.0%} of the median.")
        return "\n\n".join([*parts, *self.notes])


def _microseconds(t: Timing) -> list[str]:
    return [f"{t.median * 1e6:,.1f}" if t.median < 1e-3 else f"{t.median * 1e6:,.0f}", f"{t.spread:.0%}{' !' * t.unstable}"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, padded so that it reads well on a screen too; the first row is the heading, numbers are right-aligned."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def describe(env: dict[str, Any]) -> str:
    """The environment as two lines of text."""
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
    return (
        f"{env['cpu']}, {env['cores']} cores, {env['system']}, GPU {env['gpu'] or 'none'}, {env['threads']} thread(s), "
        f"load {env['load']}, {env['date']}, commit {env['commit']}\nPython {env['python']}, {versions}"
    )


def bar_plot(path: Path, title: str, timings: Sequence[Timing], *, rates: bool) -> None:
    """Bars of medians with their quartiles, on a logarithmic axis."""
    plt = _pyplot()
    if plt is None:
        return
    names = [t.name for t in timings]
    value = [t.rate if rates else t.median * 1e6 for t in timings]
    ends = [[1 / q for q in t.quartiles[::-1]] if rates else [q * 1e6 for q in t.quartiles] for t in timings]
    error = [
        [max(0.0, v - low) for v, (low, _) in zip(value, ends, strict=True)],
        [max(0.0, high - v) for v, (_, high) in zip(value, ends, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.28 * len(names)), layout="constrained")
    axes.barh(names, value, xerr=error, color="#4878a8", ecolor="#303030", height=0.7)
    axes.invert_yaxis()
    axes.set(title=title, xscale="log", xlabel="images per second" if rates else "microseconds per image")
    axes.grid(axis="x", alpha=0.3)
    _save(plt, figure, path)


def line_plot(path: Path, title: str, panels: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]]) -> None:
    """One log-log panel per key; its lines are label -> (x, y)."""
    plt = _pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), layout="constrained", squeeze=False)
    for ax, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for label, (x, y) in lines.items():
            ax.plot(x, y, marker="o", label=label)
        ax.set(title=name, xscale="log", yscale="log")
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small", loc="upper left")
    figure.suptitle(title)
    _save(plt, figure, path)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        print("no plot: it needs matplotlib, pip install 'cutswap-transforms[examples]'")
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _save(plt: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ---- the command line ---------------------------------------------------------------------------------------------


def parser(doc: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    found.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for JSON and PNG")
    found.add_argument("--quick", action="store_true", help="small and few, only to see that it runs")
    found.add_argument("--rounds", type=int, help="samples per case")
    return found


def finish(result: Result, out: Path) -> int:
    """Print the tables, write the JSON."""
    print(f"{describe(result.environment)}\n\n{result.markdown()}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{result.name}.json").write_text(result.to_json(), encoding="utf-8")
    return 0


def run_alone(doc: str | None, run: Callable[[argparse.Namespace], Result]) -> int:
    """Run a benchmark script from its command line; returns the exit status."""
    args = parser(doc).parse_args()
    one_thread()
    return finish(run(args), args.out)
