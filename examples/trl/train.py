"""Train with TRL and a solver, and leave what `python -m pama_exp.runs import` makes a run's record of.

python train.py MODEL PROMPTS.jsonl OUTPUT --solver pama --rewards brief,varied
accelerate launch --num_processes 2 train.py MODEL PROMPTS.jsonl OUTPUT --solver gdpo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import trl
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

import rewards
from pama_exp.integrations.named_solvers import named_solver
from pama_exp.integrations.trl import MultiObjectiveGRPOTrainer


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a folder in Hugging Face format")
    parser.add_argument("prompts", type=Path, help="JSONL with a text under `prompt` in each line")
    parser.add_argument("output", type=Path, help="the policy, and what is to be imported")
    parser.add_argument("--solver", default="pama", help="a name as for solver=NAME that needs no gradients")
    parser.add_argument("--rewards", default="brief,varied", help="functions of rewards.py")
    parser.add_argument("--weights", help="one per reward; equal by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32, help="answers per step of each process")
    parser.add_argument("--micro", type=int, default=8, help="answers per pass")
    parser.add_argument("--answers", type=int, default=4, help="per prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--beta", type=float, default=0.05, help="of the KL term")
    parser.add_argument("--unseen", type=int, default=32, help="prompts kept for the comparison")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def checked(names: list[str]) -> list[str]:
    """The names of rewards, each tried on one answer, so that what is missing is known before any work."""
    for name in names:
        if not hasattr(rewards, name):
            raise SystemExit(f"--rewards: rewards.py has no function '{name}'.")
        try:
            getattr(rewards, name)(completions=["Well done."], prompts=["How was it?"])
        except ImportError as error:
            raise SystemExit(f"--rewards: {name} needs a package: {error}. pip install 'pama-exp[examples]'") from None
    return names


def main(o: argparse.Namespace) -> None:
    """Train, answer the unseen prompts before and after, and write it all down."""
    names = checked(o.rewards.split(","))
    weights = [float(w) for w in o.weights.split(",")] if o.weights else [1.0] * len(names)
    prompts = [json.loads(line)["prompt"] for line in o.prompts.read_text().splitlines()]
    unseen, seen = prompts[: o.unseen], prompts[o.unseen :]
    trainer = MultiObjectiveGRPOTrainer(
        solver=named_solver(o.solver, weights, o.answers),
        model=AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(o.model, padding_side="left"),
        reward_funcs=[getattr(rewards, name) for name in names],
        train_dataset=Dataset.from_dict({"prompt": seen}),
        args=trl.GRPOConfig(
            output_dir=str(o.output),
            per_device_train_batch_size=o.micro,
            gradient_accumulation_steps=o.batch // o.micro,
            num_generations=o.answers,
            max_completion_length=o.tokens,
            learning_rate=o.rate,
            lr_scheduler_type="constant",
            beta=o.beta,
            max_steps=o.steps,
            logging_steps=1,
            save_steps=max(1, o.steps // 2),
            report_to=[],
            bf16=torch.cuda.is_available(),
            seed=o.seed,
        ),
    )
    before = answers(trainer, unseen, o, names)
    trainer.train()
    after = answers(trainer, unseen, o, names)
    if trainer.accelerator.is_main_process:
        trainer.save_model(str(o.output / "policy"))
        (o.output / "before.jsonl").write_text(before)
        (o.output / "generations.jsonl").write_text(after)
        (o.output / "trainer_state.json").write_text(json.dumps({"log_history": trainer.state.log_history}))
        said = {"solver": f"trl-{o.solver}", "seed": o.seed, "steps": o.steps, "trainer": f"trl {trl.__version__}"}
        said |= {"policy": str(o.output / "policy"), "objectives": dict(zip(names, weights, strict=True))}
        (o.output / "imported.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
        print(f"python -m pama_exp.runs import {o.output} runs/{o.output.name}")


@torch.no_grad()
def answers(trainer: Any, prompts: list[str], o: argparse.Namespace, names: list[str]) -> str:
    """A row per prompt: the answer that the policy samples, and its rewards; the same draws before and after."""
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    was_training = model.training
    model.eval()
    set_seed(o.seed)
    said: list[str] = []
    for at in range(0, len(prompts), o.micro):
        asked = tokenizer(prompts[at : at + o.micro], return_tensors="pt", padding=True).to(model.device)
        ids = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            max_new_tokens=o.tokens,
            do_sample=True,
            pad_token_id=tokenizer.pad_token_id,
        )
        said += tokenizer.batch_decode(ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train(was_training)
    scores = {name: getattr(rewards, name)(completions=said, prompts=prompts) for name in names}
    rows = [
        {"prompt": prompt, "response": response} | {name: scores[name][i] for name in names}
        for i, (prompt, response) in enumerate(zip(prompts, said, strict=True))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main(options())
