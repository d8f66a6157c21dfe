"""What notebooks show of results: tables and small plots as HTML that holds its own styles, in light and dark alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

_CELL = "padding:2px 10px;border-bottom:1px solid rgba(127,127,127,.35);"
_COLOURS = ("#3b73b9", "#d1662c", "#2f9e63", "#a05fc0", "#b88a1e", "#c0446f")
_SIZE, _EDGE = 260, 34  # of a plot, and of the space that its labels take
_FULL = 0.95  # of an axis that the values take


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers stand to the right, text to the left."""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    caption = f"<caption style='text-align:left;font-weight:600'>{escape(title)}</caption>" if title else ""
    return (
        f"<table style='border-collapse:collapse;margin:6px 0'>{caption}"
        f"<thead><tr>{_cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"
    )


def plot(
    names: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    lines: Collection[str] = (),
    zero: bool = True,
) -> str:
    """Points in a plane, as an SVG.

    Args:
        names: of the two axes.
        series: {label: (x, y) of every point}.
        lines: the series whose points are joined by a line instead of being marked.
        zero: whether both axes begin at 0 or below.
    """
    points = [point for each in series.values() for point in each]
    low = [min([0.0] * zero + [float(p[axis]) for p in points] or [0.0]) for axis in (0, 1)]
    high = [max([low[axis] + 1e-9, *(float(p[axis]) for p in points)]) for axis in (0, 1)]

    def place(point: Sequence[float]) -> tuple[float, float]:
        share = [_FULL * (float(point[axis]) - low[axis]) / (high[axis] - low[axis]) for axis in (0, 1)]
        return _EDGE + share[0] * (_SIZE - 2 * _EDGE), _SIZE - _EDGE - share[1] * (_SIZE - 2 * _EDGE)

    parts, keys = [], []
    for index, (label, found) in enumerate(series.items()):
        colour, placed = _COLOURS[index % len(_COLOURS)], [place(point) for point in found]
        if label in lines:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(placed))
            parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        else:
            parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>" for x, y in placed]
        keys.append(f"<span style='color:{colour}'>●</span> {escape(label)}")
    frame = f"M{_EDGE} {_EDGE}V{_SIZE - _EDGE}H{_SIZE - _EDGE}"
    far = _EDGE + _FULL * (_SIZE - 2 * _EDGE)  # where the largest value stands
    ticks = [[f"{0 if abs(v) < 1e-3 * (b - a) else v:.2g}" for v in (a, b)] for a, b in zip(low, high, strict=True)]
    ends = [
        (_EDGE, _SIZE - _EDGE + 14, "start", ticks[0][0]),
        (far, _SIZE - _EDGE + 14, "middle", ticks[0][1]),
        (_EDGE - 4, _SIZE - far + 4, "end", ticks[1][1]),
        (_EDGE - 4, _SIZE - _EDGE - 2, "end", ticks[1][0]),
        (_SIZE / 2, _SIZE - 6, "middle", names[0]),
        (_EDGE, _EDGE - 10, "start", names[1]),
    ]
    parts += [f"<text x='{x}' y='{y}' text-anchor='{at}'>{escape(text)}</text>" for x, y, at, text in ends]
    return (
        f"<svg width='{_SIZE}' height='{_SIZE}' viewBox='0 0 {_SIZE} {_SIZE}' font-size='11' fill='currentColor'>"
        f"<path d='{frame}' fill='none' stroke='currentColor'/>{''.join(parts)}</svg><div>{'&ensp;'.join(keys)}</div>"
    )


def _cells(tag: str, row: Sequence[Any]) -> str:
    return "".join(
        f"<{tag} style='{_CELL}text-align:{'left' if at == 0 or _is_text(value) else 'right'}'>"
        f"{escape(_shown(value))}</{tag}>"
        for at, value in enumerate(row)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any(character.isdigit() for character in value)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
