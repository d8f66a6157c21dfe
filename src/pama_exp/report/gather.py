"""The report's data: run folders read into plain nested values, unfinished runs included."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pama_exp.comparison import Comparison, Run, compare, load_runs, split_by_objectives
from pama_exp.comparison.groups import group_key
from pama_exp.comparison.load import damaged, flatten
from pama_exp.comparison.reference import TrueFront, reference_of
from pama_exp.comparison.write import tables
from pama_exp.config.naming import VOLATILE, shown
from pama_exp.errors import UserError
from pama_exp.metrics.fronts import nondominated
from pama_exp.report.curves import curve_keys, curves_of, points_for, rounded
from pama_exp.safety.secrets import redacted
from pama_exp.tracking import reading

_FRONT_POINTS = 160
_PROMPTS = 16
_GENERATIONS = 1200  # of a section, over all its runs and prompts


def gather(folders: Sequence[Path]) -> tuple[dict[str, Any], list[Comparison | None]]:
    """The page's data, and the comparison of each section.

    Returns:
        The data, with a section for each set of objectives; and for each section its comparison, None if no run of it
        is finished.

    Raises:
        UserError: for a folder that does not exist, or if the folders hold no run that can be shown.
    """
    runs = load_runs(folders)
    parts = split_by_objectives(runs)
    if not parts:
        if damaged(runs):
            raise UserError(f"No run can be shown. {damaged(runs)[0]}", "Name folders of whole runs.")
        stages = ", ".join(sorted({run.stage for run in runs}))
        raise UserError(
            f"None of the {len(runs)} runs aligns a policy ({stages}).", "Name folders of stage=align runs."
        )
    comparisons = [compare(part) if any(run.result is not None for run in part) else None for part in parts]
    sections = [_section(part, comparison, len(runs)) for part, comparison in zip(parts, comparisons, strict=True)]
    notes = []
    if len(parts) > 1:
        named = "; ".join(" + ".join(section["objectives"]) for section in sections)
        notes.append(f"The runs are of {len(parts)} sets of objectives, shown separately: {named}.")
    left_out = damaged(runs)
    others = len(runs) - sum(map(len, parts)) - len(left_out)
    if others:
        notes.append(f"{others} runs of stages that align no policy are left out.")
    notes += left_out
    return {"written": time.time(), "notes": notes, "sections": sections}, comparisons


def _section(runs: Sequence[Run], comparison: Comparison | None, total: int) -> dict[str, Any]:
    names = comparison.objectives if comparison is not None else runs[0].objectives
    labels = group_labels(runs, comparison)
    curves = curves_of(runs, names, points_for(total, len(curve_keys(names))))
    shown = [
        _run(run, names, label, series) for run, label, series in zip(runs, labels, curves.pop("series"), strict=True)
    ]
    families = list(dict.fromkeys(run["family"] for run in shown))
    return {
        "objectives": list(names),
        "kind": comparison.kind if comparison is not None else "proxy",
        "families": families,
        "runs": shown,
        **curves,
        "fronts": _true_fronts(runs[0], names, comparison),
        "attainment": [] if comparison is None else _attainment(comparison),
        "tables": [
            {"title": title, "header": header, "rows": rows}
            for title, header, rows in (tables(comparison) if comparison is not None else ())
        ],
        "warnings": list(comparison.warnings)
        if comparison is not None
        else ["No run is finished: nothing to compare."],
        "differences": config_differences(runs, labels),
        **_generations(runs),
    }


def group_labels(runs: Sequence[Run], comparison: Comparison | None) -> list[tuple[str, str]]:
    """(group, family) of each run, as in the comparison; an unfinished run gets the group of its settings."""
    groups = comparison.groups if comparison is not None else ()
    known = {group_key(group.runs[0]): (group.label, group.family) for group in groups}
    return [known.get(group_key(run), (f"{run.solver} (unfinished)", f"{run.solver} (unfinished)")) for run in runs]


def config_differences(runs: Sequence[Run], labels: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """{title, header, rows} of a table: a row per group, a column per configuration key that differs, seeds apart."""
    flats: dict[str, dict[str, str]] = {}
    for run, (label, _) in zip(runs, labels, strict=True):
        config = {k: v for k, v in run.config.items() if k not in (*VOLATILE, "seed")}
        flat = {k: _short(v) for k, v in flatten(config).items() if k != "solver.seed"}  # derived from the run's
        flats.setdefault(label, flat)
    keys = dict.fromkeys(key for flat in flats.values() for key in flat)
    differing = [key for key in keys if len({flat.get(key) for flat in flats.values()}) > 1]
    rows = [[label, *(flat.get(key, "–") for key in differing)] for label, flat in flats.items()]
    return {"title": "Configuration keys that differ", "header": ["group", *differing], "rows": rows}


def _run(run: Run, names: Sequence[str], label: tuple[str, str], series: dict[str, Any]) -> dict[str, Any]:
    result = run.result or {}
    shares = result.get("true_hypervolume_share") or {}
    return {
        "name": run.name,
        "folder": shown(run.folder),
        "group": label[0],
        "family": label[1],
        "solver": run.solver,
        "seed": run.seed,
        "status": run.status,
        "detail": run.detail,
        "step": newest_step(run),
        "steps": run.steps,
        "time": run.written.get("time"),
        "preference": rounded(run.preference),
        "before": _means(result, names, "before"),
        "after": _means(result, names, "after"),
        "share": rounded(shares.get("after")),
        "seconds": rounded((result.get("bill") or {}).get("seconds")),
        "series": series,
        **reproduce(run.folder),
    }


def _means(result: Mapping[str, Any], names: Sequence[str], when: str) -> dict[str, Any] | None:
    if not result:
        return None
    means = [result["objectives"][name][when] or {} for name in names]
    return {kind: [rounded(mean.get(kind)) for mean in means] for kind in ("gold", "proxy")}


def reproduce(folder: Path) -> dict[str, Any]:
    """{command, source, versions} from environment.json: the run's command, its git commit and its package versions."""
    path = folder / "environment.json"
    try:
        environment = redacted(reading.read_json(path, reading.check_environment))
    except UserError:
        return {"command": "", "source": "environment.json is missing or damaged"}
    git = environment.get("git")
    source = "outside a git checkout" if git is None else git["commit"][:12] + (", changed" if git["dirty"] else "")
    script, *arguments = environment["command"] or [""]
    words = ["python", Path(script).name if script.endswith("run.py") else script, *arguments]
    packages = environment.get("packages", {})
    versions = f"torch {packages.get('torch')}, transformers {packages.get('transformers')}"
    return {"command": shlex.join(words), "source": source, "versions": versions}


def newest_step(run: Run) -> int:
    """The later of the newest step in the metrics and the step in the status."""
    return max([int(run.written.get("step", 0)), *(int(row["step"]) for row in run.metrics[-1:])])


def _true_fronts(run: Run, names: Sequence[str], comparison: Comparison | None) -> list[dict[str, Any]]:
    """For each pair of 2 or 3 objectives its true front, in order of the first objective; empty if none is known.

    With three objectives this is the front of a policy that ignores the third.
    """
    reference = reference_of(run, names, "gold" if comparison is None else comparison.kind)
    if not isinstance(reference, TrueFront) or len(names) > 3:
        return []
    programs = dict(zip(names, reference.programs, strict=True))
    pairs = []
    for first, second in itertools.combinations(names, 2):
        points = reference.world.true_front([programs[first], programs[second]], reference.split).points
        points = np.unique(np.round(points, 6), axis=0)
        points = points[nondominated(points)]
        chosen = np.unique(np.linspace(0, len(points) - 1, _FRONT_POINTS).round().astype(int))
        pairs.append({"pair": [first, second], "points": rounded(points[chosen].tolist())})
    return pairs


def _attainment(comparison: Comparison) -> list[dict[str, Any]]:
    """The attainment surfaces of each front of at least two seeds; empty unless there are two objectives."""
    if len(comparison.objectives) != 2:
        return []
    return [
        {"family": front.family, "levels": rounded(dict(front.attainment)), "points": len(front.points)}
        for front in comparison.fronts
        if front.attainment and len(front.seeds) > 1
    ]


def _generations(runs: Sequence[Run]) -> dict[str, Any]:
    """The recorded responses to the prompts that most runs answered.

    For a finished run these are its responses to test prompts, else those of its newest evaluation.

    Returns:
        {prompts: texts, generations: [{index of the prompt: [response, {score: value}]} for each run],
        generation_steps: [step or None for each run]}.
    """
    latest = [_newest([row for row in run.generations if {"prompt", "response"} <= set(row)]) for run in runs]
    answered: dict[str, list[str]] = {}
    for rows in latest:
        for prompt, response in {row["prompt"]: row["response"] for row in rows}.items():
            answered.setdefault(prompt, []).append(response)
    most = max(1, min(_PROMPTS, _GENERATIONS // max(1, len(runs))))
    # First the prompts that most runs answered, of these first the ones with most different answers.
    prompts = sorted(answered, key=lambda prompt: (-len(answered[prompt]), -len(set(answered[prompt]))))[:most]
    index = {prompt: i for i, prompt in enumerate(prompts)}
    generations = []
    for rows in latest:
        answers: dict[int, Any] = {}
        for row in rows:
            if row["prompt"] in index:
                scores = {k: rounded(v) for k, v in row.items() if k.startswith(("gold/", "proxy/"))}
                answers.setdefault(index[row["prompt"]], [row["response"], scores])
        generations.append(answers)
    steps = [rows[0]["step"] if rows else None for rows in latest]
    return {"prompts": prompts, "generations": generations, "generation_steps": steps}


def _newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    test = [row for row in rows if row.get("split") == "test"]
    last = max((row["step"] for row in rows), default=0)
    return test or [row for row in rows if row["step"] == last]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
