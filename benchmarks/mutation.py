"""Single-line mutants of the mathematics and of what connects it, made by a tool, and those that no test notices.

    pip install cosmic-ray
    python benchmarks/mutation.py [part of a module's name ...] [--sample 100 [--seed 0]]

For scheduled runs: a mutant takes as long as its tests do, so that all modules take days. The tool edits a copy of the
repository. Writes benchmarks/results/mutation.json: for each module how many mutants there were, and the lines that can
be edited without a test turning red. With --sample, so many of all mutants are drawn and tried, and the share that is
noticed is written with its interval, in benchmarks/results/mutation-sample.json. The tests that are to notice are of
the fast tier. tests/test_mutants.py holds the mutants that were chosen by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
PACKAGE = "src/pama_exp"
# Modules, as paths or patterns under the package, and the tests that are to notice: the one place that names them.
STEP = "tests/training/test_whole_step.py"
MODULES = {
    "solvers/*.py": f"tests/solvers tests/contracts/test_solvers.py {STEP}",
    "rl/*.py": f"tests/rl {STEP}",
    "training/update.py": f"{STEP} tests/training",
    "training/alignment.py": f"{STEP} tests/training tests/end_to_end/test_every_solver.py",
    "policy/log_probs.py": f"tests/policy/test_log_probs.py tests/policy/test_policy.py {STEP}",
    "policy/packing.py": "tests/policy/test_packing.py tests/policy/test_policy.py",
    "comparison/statistics.py": "tests/comparison",
    "comparison/seedwise.py": "tests/comparison",
    "comparison/reference.py": "tests/comparison",
}
SECONDS_PER_MUTANT = 600.0
# Nobody writes a shift for a sum by mistake; and `int | None` is a type, which nothing computes.
UNLIKELY = [r"core/ReplaceBinaryOperator_BitOr_.*", r".*_(LShift|RShift|BitAnd|BitOr|BitXor|Mod|FloorDiv)$"]


def main() -> None:
    """Mutate every module whose name holds one of the words, or all; print and write what survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of modules' names; none means all")
    parser.add_argument("--sample", type=int, help="mutants to draw from all of them; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    given = parser.parse_args()
    output = ROOT / "benchmarks" / "results" / ("mutation.json" if given.sample is None else "mutation-sample.json")
    found: dict[str, Any] = json.loads(output.read_text()) if given.sample is None and output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".hypothesis")
        )
        made = {name: Mutants(copy, name, tests) for name, tests in modules(copy, given.modules).items()}
        if given.sample is not None:
            draw(list(made.values()), given.sample, given.seed)
        for name, mutants in made.items():
            if not mutants.count:
                continue
            found[name] = mutants.tried()
            print(f"{name}: {len(found[name]['survivors'])} of {found[name]['mutants']} mutants survive", flush=True)
            for survivor in found[name]["survivors"]:
                print(f"  line {survivor['line']}: {survivor['edit']}", flush=True)
            written = found if given.sample is None else score(found, sum(m.total for m in made.values()), given.seed)
            output.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def modules(copy: Path, chosen: list[str]) -> dict[str, str]:
    """{module: the tests that are to notice its mutants}."""
    return {
        name: tests
        for pattern, tests in MODULES.items()
        for module in sorted((copy / PACKAGE).glob(pattern))
        if module.name != "__init__.py"
        for name in [str(module.relative_to(copy / PACKAGE))]
        if not chosen or any(part in name for part in chosen)
    }


def draw(made: list[Mutants], count: int, seed: int) -> None:
    """Keep `count` of all mutants, each equally likely."""
    numbered = [(mutants, job) for mutants in made for job in mutants.jobs()]
    kept = random.Random(seed).sample(numbered, min(count, len(numbered)))
    for mutants in made:
        mutants.keep({job for owner, job in kept if owner is mutants})


def score(found: dict[str, Any], total: int, seed: int) -> dict[str, Any]:
    """The share of the tried mutants that was noticed, with Wilson's 95 % interval."""
    tried = sum(each["mutants"] for each in found.values())
    noticed = tried - sum(len(each["survivors"]) for each in found.values())
    between = binomtest(noticed, tried).proportion_ci(method="wilson")
    share = {"noticed": noticed / tried, "interval": [between.low, between.high]}
    return {"of": total, "tried": tried, "seed": seed, **share, "modules": found}


class Mutants:
    """All mutants of one module in a copy of the repository, of which some may be dropped before the rest is tried."""

    _green: ClassVar[set[str]] = set()

    def __init__(self, copy: Path, name: str, tests: str) -> None:
        stem = name.replace("/", "-").removesuffix(".py")
        self.copy, self._tests = copy, tests
        self._config, self._session = copy / f"{stem}.toml", copy / f"{stem}.sqlite"
        # The copy's own sources come first, whatever is installed.
        command = f"env PYTHONPATH=src {sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
        self._config.write_text(
            f'[cosmic-ray]\nmodule-path = "{PACKAGE}/{name}"\ntimeout = {SECONDS_PER_MUTANT}\n'
            f'excluded-modules = []\ntest-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
            f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {UNLIKELY!r}\n".replace("'", '"')
        )
        self._run("cosmic-ray", "init", self._config, self._session)
        self._run("cr-filter-operators", self._session, self._config)
        self.total = self.count = len(self.jobs())

    def jobs(self) -> list[str]:
        """The mutants that are still to be tried."""
        query = (
            "SELECT job_id FROM mutation_specs WHERE job_id NOT IN (SELECT job_id FROM work_results) "
            "ORDER BY operator_name, operator_args, occurrence"
        )
        with sqlite3.connect(self._session) as session:
            return [job for (job,) in session.execute(query)]

    def keep(self, jobs: set[str]) -> None:
        """Drop the other mutants."""
        dropped = [(job,) for job in self.jobs() if job not in jobs]
        with sqlite3.connect(self._session) as session:
            for table in ("mutation_specs", "work_items"):
                session.executemany(f"DELETE FROM {table} WHERE job_id = ?", dropped)
        self.count = len(jobs)

    def tried(self) -> dict[str, Any]:
        """{mutants, survivors: [{line, operator, edit}]}, after the tests have run on each."""
        if self._tests not in self._green:  # without a mutant
            self._run("cosmic-ray", "baseline", self._config)
            self._green.add(self._tests)
        self._run("cosmic-ray", "exec", self._config, self._session)
        dumped = self._run("cosmic-ray", "dump", self._session)
        pairs = [json.loads(line) for line in dumped.splitlines()]
        made = [(work["mutations"][0], result) for work, result in pairs if result["worker_outcome"] != "skipped"]
        survivors = [
            {"line": mutation["start_pos"][0], "operator": mutation["operator_name"], "edit": edit(result["diff"])}
            for mutation, result in made
            if result["test_outcome"] == "survived"
        ]
        return {"mutants": len(made), "survivors": survivors}

    def _run(self, program: str, *arguments: Path | str) -> str:
        path = shutil.which(program) or str(Path(sys.executable).with_name(program))
        line = [path, *map(str, arguments)]
        return subprocess.run(line, cwd=self.copy, check=True, stdout=subprocess.PIPE, text=True).stdout


def edit(diff: str) -> str:
    """The lines that a diff takes and gives: what stood there → what stands there now."""
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return " → ".join(line[1:].strip() for line in changed)


if __name__ == "__main__":
    main()
