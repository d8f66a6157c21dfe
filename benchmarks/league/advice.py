"""Which solver to take: ten lines, each read off the table as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pama_exp.comparison.statistics import LEAST

from .plan import OBJECTIVES, REWARDS
from .rank import BASELINE, Block, Seeds, Standing, standings

Found = Mapping[Block, Mapping[str, Seeds]]
ONE_PASS = 2.5  # backward passes per prompt of two epochs: one each, and room for rounding


@dataclass(frozen=True)
class Choice:
    """One line's question and what the table answers.

    Attributes:
        asks: the situation.
        block: where it is looked up.
        column: the measure that decides.
        sign: 1 where more is better, −1 where less is.
        one_pass: only entries that make one backward pass an epoch.
        level: only entries under which, in the mean, no objective falls below the start.
    """

    asks: str
    block: Block
    column: str
    sign: int = 1
    one_pass: bool = False
    level: bool = False


def _blocks() -> list[tuple[int, str]]:
    return [(n, reward) for reward in REWARDS for n in OBJECTIVES]


CHOICES = (
    *(
        Choice(f"{n} objectives, {'exact' if reward == 'gold' else 'learned'} rewards", ("reward", n, reward), "share")
        for n, reward in _blocks()
    ),
    Choice("Two objectives and none may fall", ("reward", 2, "gold"), "share", level=True),
    Choice("Five objectives and none may fall", ("reward", 5, "gold"), "share", level=True),
    Choice("Five objectives and the sum of gains counts", ("reward", 5, "gold"), "mean_gain"),
    Choice("Five objectives on a budget: one backward pass", ("reward", 5, "gold"), "share", one_pass=True),
)


def answer(choice: Choice, by_entry: Mapping[str, Seeds]) -> tuple[Standing | None, list[Standing]]:
    """The entry that the block favours, and all that were looked at; nobody where no entry but the baseline has run.

    Entries with seeds enough for an interval come before those of fewer, whatever these show.
    """
    places = standings(by_entry) if by_entry else []
    fit = [
        place
        for place in places
        if (not choice.one_pass or place.means["backwards_per_prompt"] < ONE_PASS)
        and (not choice.level or place.means["least_gain"] >= 0)
    ]
    if len(places) < 2 or not fit:
        return None, places
    sure = [place for place in fit if len(place.seeds) >= LEAST]
    return max(sure or fit, key=lambda place: choice.sign * place.means[choice.column]), places


def advice(ranking: Found, confirmation: Found) -> list[str]:
    """One line per choice, with the figures that it rests on and how sure they are.

    The confirmation answers where nothing but the baseline has the seeds for an interval in the ranking.
    """
    lines = []
    for choice in CHOICES:
        ranked, confirmed = (found.get(choice.block, {}) for found in (ranking, confirmation))
        is_confirmed = not _is_sure(ranked) and _is_sure(confirmed)
        said = _said(choice, confirmed if is_confirmed else ranked)
        lines.append(f"**{choice.asks}**: {said}{' From the confirmation.' if is_confirmed else ''}")
    return lines


def _is_sure(by_entry: Mapping[str, Seeds]) -> bool:
    """Whether an entry besides the baseline has seeds enough for an interval."""
    return any(len(seeds) >= LEAST for entry, seeds in by_entry.items() if entry != BASELINE)


def _said(choice: Choice, by_entry: Mapping[str, Seeds]) -> str:
    best, places = answer(choice, by_entry)
    if best is None:
        return "not run." if len(places) < 2 else "no entry that has run keeps to that."
    base = next((place for place in places if place.entry == BASELINE), None)
    text = f"`{best.entry}`, {_figure(choice.column, best)}"
    if base is not None and best.entry != BASELINE:
        text += f" ({BASELINE}: {_number(choice.column, base)})"
    seeds = len(best.seeds)
    if best.p is not None and best.p < 0.05:
        sure = "the difference of the shares is significant"
    elif best.entry == BASELINE:
        sure = "nothing that has run is ahead of it"
    else:
        sure = "not shown beyond chance" if seeds > 1 else "one seed, which shows nothing beyond chance"
    return f"{text}; {seeds} seed{'s' if seeds > 1 else ''}, {len(places)} entries have run; {sure}."


def _figure(column: str, place: Standing) -> str:
    number = _number(column, place)
    return f"{number} of the true hypervolume" if column == "share" else f"{column.replace('_', ' ')} {number}"


def _number(column: str, place: Standing) -> str:
    value = place.means[column]
    return f"{100 * value:.1f} %" if column == "share" else f"{value:+.2f}"
