"""python picture.py RUN: each reward over the run's steps on a scale of its own, and the KL; RUN/rewards.png."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

SMOOTHED = 5  # steps of the mean that is drawn over the single ones


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Mean over each step's training prompts, thin, and its running mean, thick."""
    steps = [row for row in rows if "time/step" in row]
    keys = [key for key in steps[0] if key.startswith("reward/") and key.endswith("/mean")] + ["kl/response"]
    figure, axes = plt.subplots(1, len(keys), figsize=(3.2 * len(keys), 2.6), layout="constrained")
    for axis, key in zip(axes, keys, strict=True):
        values = np.array([row[key] for row in steps])
        smooth = np.convolve(values, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
        places = np.array([row["step"] for row in steps])
        axis.plot(places, values, color="tab:blue", alpha=0.35, linewidth=1)
        axis.plot(places[SMOOTHED // 2 : SMOOTHED // 2 + len(smooth)], smooth, color="tab:blue", linewidth=2)
        axis.set_title("KL to the reference, nats" if key == "kl/response" else key.split("/")[1], fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run = Path(sys.argv[1])
    draw([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()], run / "rewards.png")
