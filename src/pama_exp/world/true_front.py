"""The exact Pareto front of expected rewards: its support points by enumeration, and the volume they dominate.

Legend: M points or weight vectors, N objectives, Q kinds of prompt, R candidate responses.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from pama_exp.storage import html_view
from pama_exp.world.language import CLOSERS, JOKES, OPENERS, Clause, Language, Prompt
from pama_exp.world.objectives import PROGRAMS, Answer

# Steps of the weight lattice, by the number of objectives: fine where that is cheap.
_LATTICE = {1: 1, 2: 2000, 3: 60, 4: 20, 5: 12, 6: 8}


@dataclass(frozen=True)
class Front:
    """The true front: M points (M,N) of mean rewards, each the best for its row of weights (M,N).

    No stochastic policy exceeds a point in the direction of its weights. All objectives are maximised.
    """

    objectives: tuple[str, ...]
    points: NDArray[np.float64]
    weights: NDArray[np.float64]

    def _repr_html_(self) -> str:
        """What a notebook shows: a plot of two objectives, of others the ends of the front."""
        if len(self.objectives) == 2:
            return html_view.plot(self.objectives, {"true front": self.points.tolist()}, lines=["true front"])
        ends = [(f"best {name}", *self.points[self.points[:, i].argmax()]) for i, name in enumerate(self.objectives)]
        return html_view.table(f"True front, {len(self.points)} points", ["", *self.objectives], ends)


def candidates(language: Language, prompt: Prompt) -> list[list[Clause]]:
    """Every response that can be best for some weights, in its shortest phrasing.

    Each is a subset of the true statements asked for, with or without a joke, an opener and a closer. Anything else (a
    false statement, an aside, a filler, a refusal, a longer phrasing) raises no objective and costs tokens.
    """
    facts = language.facts[prompt.entity]
    statements = [Clause("statement", language.statement(n, facts[n]), n, facts[n]) for n in prompt.asked]
    joke, opener, closer = (
        Clause(kind, min(texts, key=len)) for kind, texts in (("joke", JOKES), ("opener", OPENERS), ("closer", CLOSERS))
    )
    responses = []
    for size in range(len(statements) + 1):
        for chosen in itertools.combinations(statements, size):
            for with_joke, with_opener, with_closer in itertools.product((0, 1), repeat=3):
                responses.append([opener] * with_opener + list(chosen) + [joke] * with_joke + [closer] * with_closer)
    return responses


def compute_front(language: Language, prompts: Sequence[Prompt], objectives: Sequence[str], budget: int) -> Front:
    """The true front over the prompts: max_π w·J(π) for each w of a lattice of weights.

    For each w, the best candidate of every prompt, averaged over the prompts. `budget` is T_max of `concise`.
    """
    # The values of a candidate depend on what is asked, not on the entity.
    counts = Counter(prompt.asked for prompt in prompts)
    examples = {prompt.asked: prompt for prompt in prompts}
    weights = _lattice(len(objectives))
    # A zero weight leaves ties; a trace of every weight breaks them in the efficient direction.
    directions = weights + 1e-7
    points = np.zeros((len(weights), len(objectives)))
    for names, count in counts.items():
        prompt = examples[names]
        values = np.array(
            [
                [PROGRAMS[name](Answer(language, prompt, clauses, budget)) for name in objectives]
                for clauses in candidates(language, prompt)
            ]
        )
        points += count * values[(directions @ values.T).argmax(axis=1)]
    return Front(tuple(objectives), points / len(prompts), weights)


def dominated_volume(points: NDArray[np.float64]) -> float:
    """Exact volume below the convex hull of the points (M,N): {x ≥ 0 : x ≤ y for some y in the hull}.

    In the positive orthant this set is the convex hull of the points and their projections onto all coordinate faces.
    """
    count = points.shape[1]
    if count == 1:
        return float(points.max())
    corners = np.unique(np.round(points, 12), axis=0)
    faces = [corners * np.array(face) for face in itertools.product((0.0, 1.0), repeat=count)]
    return float(
        ConvexHull(np.unique(np.concatenate(faces), axis=0), qhull_options="QJ Pp" if count > 4 else "Pp").volume
    )


def distance_along(point: NDArray[np.float64], front: Front) -> float:
    """Distance from a point (N,) to the front along the point's direction: (s − 1)‖point‖ with s·point on the front.

    s = min over support directions w of (w · front point) / (w · point)
    """
    support = (front.weights * front.points).sum(1)
    along = front.weights @ point
    scale = np.min(support[along > 0] / along[along > 0]) if (along > 0).any() else 1.0
    return float((scale - 1.0) * np.linalg.norm(point))


@lru_cache
def _lattice(count: int) -> NDArray[np.float64]:
    steps = _LATTICE[count]
    rows = [row for row in itertools.product(range(steps + 1), repeat=count - 1) if sum(row) <= steps]
    first = np.array(rows, dtype=float).reshape(len(rows), count - 1)
    return np.concatenate([first, steps - first.sum(1, keepdims=True)], axis=1) / steps
