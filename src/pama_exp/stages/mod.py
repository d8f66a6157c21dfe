"""`stage=mod`: multi-objective decoding, policies between single-objective experts by mixing their logits.

Source: Shi et al. 2024, "Decoding-time language model alignment with multiple objectives", arXiv 2406.18853.
"""

from __future__ import annotations

from typing import Any

from pama_exp.assembly.experts import experts_config, experts_result, single_objective_experts
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.config.schema import Config
from pama_exp.data.preferences import shares
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model, load_tokenizer
from pama_exp.policy.policy import freeze
from pama_exp.rollout.mixture import check_mixable, mixed_engine
from pama_exp.tracking.console import note, progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training import shared_rollout
from pama_exp.training.evaluation import answers, evaluate
from pama_exp.training.operating_points import EVALUATION_SEED, operating_point


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Evaluate the mixture with logits Σ λᵉ zᵉ for every λ of the grid on the test prompts.

    Its bill is that of all the experts' training. What serving it takes stands under `serving`: every expert is held
    and passed for each token.

    Raises:
        UserError: unless `mod.runs` are two or more finished runs that differ in their one objective alone, of one
            vocabulary, or for an engine that mixes nothing.
    """
    by_transformers, rows_at_once = _engine(setup.config)
    experts = single_objective_experts(setup.config.mod.runs, "mod.runs")
    of_experts = resolve(experts_config(experts, setup.config))
    names, front = list(experts), of_experts.front("test")
    folders = [expert.folder / "policy" for expert in experts.values()]
    module = build_alignment(of_experts, folders[0])
    stream = held_out(of_experts, module, "test", of_experts.config.data.evaluation_prompts)
    models = [freeze(load_model(folder)).to(setup.device) for folder in folders]
    tokenizers = [load_tokenizer(folder) for folder in folders]
    check_mixable(models, tokenizers)
    points: list[dict[str, Any]] = []
    tokens = 0
    grid = list(shares(len(names), setup.config.mod.grid))
    with progress(f"Mixing {' + '.join(names)}", len(grid)) as bar:
        for index, mix in enumerate(grid):
            engine = mixed_engine(models, tokenizers[0], mix, by_transformers, rows_at_once)
            if index == 0 and engine.reason is not None:
                note(f"rollout=hf: {engine.reason}.")
            generate = shared_rollout.answering(engine, of_experts.sampling, setup.device)
            evaluation = evaluate(module.objectives, answers(generate, stream, EVALUATION_SEED))
            tokens += int(evaluation.lengths.sum())
            preference = dict(zip(names, mix, strict=True))
            row = evaluation.metrics() | {f"mod/{name}": share for name, share in preference.items()}
            record.log_metrics(index, row)
            record.log_generations(index, [{"split": "test", **row} for row in evaluation.rows()])
            points.append(operating_point(preference, evaluation.means(), front))
            bar.advance({name: rewards.mean().item() for name, rewards in evaluation.proxy.items()})
    count = len(models)
    serving = {"models": count, "passes_per_token": count, "tokens": tokens, "passes": count * tokens}
    return experts_result(of_experts.config, record, experts, points) | {"serving": serving}


def _engine(config: Config) -> tuple[bool, int | None]:
    """Whether transformers' own is asked for, and the rows that the fast one decodes at a time.

    Raises:
        UserError: for an engine that samples from weights it is handed.
    """
    node = config.rollout.engine
    name = str(node.get("_target_", "")).rpartition(".")[2]
    if name not in ("choose_engine", "FastEngine", "HFEngine"):
        raise UserError(
            "stage=mod mixes logits, which this rollout engine does not hand out.", "Set rollout=fast or hf."
        )
    return name == "HFEngine", node.get("rows_at_once")
