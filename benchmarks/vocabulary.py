"""Memory of a policy's pass over a vocabulary of 262,144 words, forward and backward, on the processor.

    python benchmarks/vocabulary.py before|after

A body of one narrow layer with random weights, so that nearly all is the output layer's. Each number of response tokens
is a process of its own. Measured is what the pass adds to the resident set, gradients of the weights left out, in units
of rows x vocabulary floats; written to benchmarks/results/vocabulary.json under the word given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pama_exp.policy.policy import Policy
from pama_exp.types import PromptBatch, Rollout

WORDS, WIDTH, LENGTH = 262_144, 64, 32
ROWS = (4, 8, 16, 32)
PATH = Path(__file__).parent / "results" / "vocabulary.json"


def resident(field: str) -> int:
    """Bytes: VmRSS, now; VmHWM, the most since it was last set back."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def pass_of(rows: int) -> dict[str, float]:
    """One pass over `rows` responses, after one that has made the gradients and warmed up."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=1
    )
    policy = Policy(LlamaForCausalLM(config), 1)
    mask = torch.ones(rows, LENGTH, dtype=torch.bool)
    ids = torch.randint(0, WORDS, (rows, LENGTH))
    prompts = PromptBatch(input_ids=ids[:, :4], mask=mask[:, :4], texts=[""] * rows, columns={})
    rollout = Rollout(prompts, ids, mask, mask[:, 0], [""] * rows)

    def run(seen: Rollout) -> torch.Tensor:
        output = policy.score_rollout(seen)
        (output.log_probs.mean() + 0.1 * output.entropy.mean()).backward()
        return output.log_probs.detach()

    small = Rollout(
        PromptBatch(input_ids=ids[:1, :4], mask=mask[:1, :4], texts=[""], columns={}),
        ids[:1, :2],
        mask[:1, :2],
        mask[:1, 0],
        [""],
    )
    run(small)
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(rollout)
    added = resident("VmHWM") - held
    tokens = rows * LENGTH
    return {"tokens": tokens, "added": added, "of_logits": added / (tokens * WORDS * 4)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("word", help="under which the figures are written, or a number of rows to measure here")
    given = parser.parse_args()
    if given.word.isdigit():
        print(json.dumps(pass_of(int(given.word))))
        return
    found = json.loads(PATH.read_text()) if PATH.exists() else {}
    found[given.word] = []
    for rows in ROWS:
        out = subprocess.run([sys.executable, __file__, str(rows)], check=True, capture_output=True, text=True).stdout
        found[given.word].append(json.loads(out.splitlines()[-1]))
        print(found[given.word][-1], flush=True)
    PATH.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
