"""Single-line mutants of the mathematics and of what connects it, made by a tool, and those that no test notices.

    pip install cosmic-ray
    python benchmarks/mutation.py [part of a module's name ...]

For scheduled runs: a mutant takes as long as its tests do, so that all modules take a night. The tool edits a copy of
the repository. Writes benchmarks/results/mutation.json: for each module how many mutants there were, and the lines that
can be edited without a test turning red. tests/test_mutants.py holds the mutants that were chosen by hand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
SECONDS_PER_MUTANT = 900.0
# Nobody writes a shift for a sum by mistake; and `int | None` is a type, which nothing computes.
UNLIKELY = [r"core/ReplaceBinaryOperator_BitOr_.*", r".*_(LShift|RShift|BitAnd|BitOr|BitXor|Mod|FloorDiv)$"]


def main(chosen: list[str]) -> None:
    """Mutate every module whose name holds one of `chosen`, or all; print and write what survives."""
    output = ROOT / "benchmarks" / "results" / "mutation.json"
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for pattern, tests in MODULES.items():
            for module in sorted((copy / PACKAGE).glob(pattern)):
                name = str(module.relative_to(copy / PACKAGE))
                if module.name == "__init__.py" or (chosen and not any(part in name for part in chosen)):
                    continue
                found[name] = mutate(copy, name, tests)
                print(f"{name}: {len(found[name]['survivors'])} of {found[name]['mutants']} mutants survive")
                for survivor in found[name]["survivors"]:
                    print(f"  line {survivor['line']}: {survivor['edit']}")
                output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def mutate(copy: Path, name: str, tests: str) -> dict[str, Any]:
    """{mutants, survivors: [{line, operator, edit}]} of one module in the copy."""
    config, session = copy / "mutation.toml", copy / "mutation.sqlite"
    session.unlink(missing_ok=True)
    # The copy's own sources come first, whatever is installed.
    command = f"env PYTHONPATH=src {sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{PACKAGE}/{name}"\ntimeout = {SECONDS_PER_MUTANT}\n'
        f'excluded-modules = []\ntest-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {UNLIKELY!r}\n".replace("'", '"')
    )
    tool = shutil.which("cosmic-ray") or str(Path(sys.executable).with_name("cosmic-ray"))

    def run(program: str, *arguments: Path | str) -> str:
        line = [program, *map(str, arguments)]
        return subprocess.run(line, cwd=copy, check=True, stdout=subprocess.PIPE, text=True).stdout

    run(tool, "baseline", config)
    run(tool, "init", config, session)
    run(str(Path(tool).with_name("cr-filter-operators")), session, config)
    run(tool, "exec", config, session)
    pairs = [json.loads(line) for line in run(tool, "dump", session).splitlines()]
    made = [(work["mutations"][0], result) for work, result in pairs if result["worker_outcome"] != "skipped"]
    survivors = [
        {"line": mutation["start_pos"][0], "operator": mutation["operator_name"], "edit": edit(result["diff"])}
        for mutation, result in made
        if result["test_outcome"] == "survived"
    ]
    return {"mutants": len(made), "survivors": survivors}


def edit(diff: str) -> str:
    """The lines that a diff takes and gives: what stood there → what stands there now."""
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return " → ".join(line[1:].strip() for line in changed)


if __name__ == "__main__":
    main(sys.argv[1:])
