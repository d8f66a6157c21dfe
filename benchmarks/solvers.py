"""What the solve alone costs over N objectives and d parameters: O(n) for PAMA against O(n^2 d) for MGDA.

    python benchmarks/solvers.py [repeats]

PAMA's closed form over the advantages of 64 responses of 48 tokens, which d does not enter; MGDA's Gramian and
min-norm point over N gradients of d parameters; the same for MGDA-UB over N gradients of 64 x 48 hidden states of width
256. Each point is a process of its own, so that its peak memory is its own; d goes as far as two gradients fit in half
of the memory that is free. Writes benchmarks/results/solvers.json and solvers.png.
"""

from __future__ import annotations

import json
import subprocess
import sys

import machine
import torch
from matplotlib.figure import Figure

from pama_exp.solvers.gradient import MGDA, MGDAUB
from pama_exp.solvers.pama import PAMA

RESPONSES, TOKENS, WIDTH = 64, 48, 256
METHODS = {"pama": "PAMA", "mgda": "MGDA", "mgda-ub": "MGDA-UB"}
COUNTS = [1, 2, 4, 8, 16]
PARAMETERS = [2**20 * 4**power for power in range(6)]  # 1M to 1G


def point(method: str, count: int, parameters: int, repeats: int) -> dict[str, float]:
    """In a process of its own: seconds of one solve, and how much the process grew for it."""
    before = machine.peak_bytes()
    weights = [1 / count] * count
    if method == "pama":
        advantages = torch.randn(count, RESPONSES, TOKENS)
        mask = torch.ones(RESPONSES, TOKENS, dtype=torch.bool)
        solver = PAMA(weights)
        found = machine.seconds(lambda: solver.on_advantages(advantages, mask), repeats=repeats)
    else:
        size = RESPONSES * TOKENS * WIDTH if method == "mgda-ub" else parameters
        gradients, losses = torch.rand(count, size), torch.rand(count)
        solver = {"mgda": MGDA, "mgda-ub": MGDAUB}[method](weights)
        found = machine.seconds(lambda: solver.on_losses(losses, lambda *_: gradients @ gradients.T), repeats=repeats)
    grown = machine.peak_bytes() - before
    return {"method": method, "objectives": count, "parameters": parameters, "seconds": found, "peak_bytes": grown}


def available_bytes() -> int:
    with open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def main(repeats: str = "3") -> None:
    room = available_bytes() // 2
    points = [(method, n, PARAMETERS[1]) for method in METHODS for n in COUNTS]
    points += [(method, 2, d) for method in ("pama", "mgda") for d in PARAMETERS if 2 * 4 * d <= room]
    rows = []
    for method, n, d in dict.fromkeys(points):
        command = [sys.executable, __file__, "--point", method, str(n), str(d), repeats]
        rows.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        print(
            "{method:8s} N={objectives:<3d} d={parameters:<11d} {seconds:.6f} s  {peak_bytes} bytes".format(**rows[-1])
        )
    figure = Figure(figsize=(8, 6), layout="constrained")
    for row, (key, axis) in enumerate((("seconds", "seconds a solve"), ("peak_bytes", "MiB beyond the process's own"))):
        for column, (name, fixed, value) in enumerate(
            (("objectives", "parameters", PARAMETERS[1]), ("parameters", "objectives", 2))
        ):
            axes = figure.add_subplot(2, 2, 2 * row + column + 1)
            for (method, label), color in zip(METHODS.items(), machine.COLORS, strict=False):
                shown = sorted((r for r in rows if r["method"] == method and r[fixed] == value), key=lambda r: r[name])
                heights = [max(r[key] / (2**20 if key == "peak_bytes" else 1), 1e-9) for r in shown]
                axes.plot([r[name] for r in shown], heights, "o-", color=color, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set(xlabel=name if row else None, ylabel=axis if not column else None)
            axes.grid(alpha=0.3)
    figure.axes[0].set_title(f"d = {PARAMETERS[1] / 2**20:.0f}M", fontsize=10)
    figure.axes[1].set_title("N = 2", fontsize=10)
    figure.axes[0].legend(frameon=False)
    command = f"python benchmarks/solvers.py {repeats}"
    machine.save("solvers", {"command": command, "machine": machine.describe(), "rows": rows}, figure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--point"]:
        method, *numbers = sys.argv[2:]
        print(json.dumps(point(method, *(int(number) for number in numbers))))
    else:
        main(*sys.argv[1:])
