"""TRL's trainers with a solver: equal to TRL's own where TRL has the method, and trained, saved and resumed."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("trl")

import trl_tiny
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl_tiny import letters, picky, short

import tiny
from commands import ROOT, environment
from pama_exp.errors import UserError
from pama_exp.integrations.trl import MultiObjectiveGRPOTrainer, MultiObjectiveRLOOTrainer
from pama_exp.rewards.function import FunctionScorer
from pama_exp.solvers import CTWA, GDPO, MGDA, PAMA, DynamicHypervolume, FastRL, Linear, combine, pcgrad

pytestmark = pytest.mark.filterwarnings("default")  # TRL's own and its libraries'
WEIGHTS = [0.3, 0.7]
MANY = {"per_device_train_batch_size": 16}


def advantages(kind, config, folder, rewards=(letters, short), settings=None, **given):
    made = trl_tiny.trainer(kind, config, folder, rewards, settings, **given)
    return trl_tiny.first_batch(made)["advantages"], made


def close(found, expected):
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # float32 rounds what is above 10 to as much


@pytest.mark.parametrize("rewards", [(letters, short), (letters, picky)], ids=["all score", "one abstains"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_linear_is_trls_sum(tmp_path, rewards, scale):
    settings = {"scale_rewards": scale}
    solver = Linear(WEIGHTS, space="reward")
    found, _ = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, rewards, settings, solver=solver)
    own, _ = advantages(GRPOTrainer, GRPOConfig, tmp_path, rewards, settings | {"reward_weights": WEIGHTS})
    close(found, own)


@pytest.mark.parametrize("rewards", [(letters, short), (letters, picky)], ids=["all score", "one abstains"])
def test_gdpo_is_trls_normalize_then_sum(tmp_path, rewards):
    found, _ = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, rewards, solver=GDPO(WEIGHTS, epsilon=1e-4))
    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": WEIGHTS}
    own, _ = advantages(GRPOTrainer, GRPOConfig, tmp_path, rewards, settings)
    close(found, own)


@pytest.mark.parametrize(
    "settings", [{"beta": 0.0}, {"beta": 0.5}, {"beta": 0.5, "normalize_advantages": True}], ids=str
)
def test_linear_is_trls_rloo_with_its_kl_in_the_reward(tmp_path, settings):
    found, made = rloo(tmp_path, settings, MultiObjectiveRLOOTrainer, solver=Linear(WEIGHTS))
    own, _ = rloo(tmp_path, settings | {"reward_weights": WEIGHTS}, RLOOTrainer)
    close(found, own)
    if settings["beta"]:
        assert abs(made._metrics["train"]["kl"][-1]) > 0.01


def rloo(folder, settings, kind, **given):
    """A batch of a policy that has left its reference, so that there is a KL to be charged."""
    made = trl_tiny.trainer(kind, RLOOConfig, folder, None, settings, **given)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(1.05)
    return trl_tiny.first_batch(made)["advantages"], made


def test_pama_gets_the_advantages_of_every_function_by_itself(tmp_path):
    found, made = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, settings=MANY, solver=PAMA([0.5, 0.5]))
    scores = torch.stack([torch.tensor(made._logs["rewards"][name]) for name in ("letters", "short")])
    groups = scores.reshape(2, -1, 4)
    own = ((groups - groups.mean(-1, keepdim=True)) / (groups.std(-1, keepdim=True) + 1e-4)).reshape(2, -1)
    expected, _ = combine(own[:, :, None], torch.ones(16, 1, dtype=torch.bool))
    close(found, expected[:, 0])
    metrics = made._metrics["train"]
    assert metrics["solver/zero_share"] == [(expected == 0).float().mean().item()]
    assert metrics["advantage/short/std"][0] == pytest.approx(own[1].std(correction=0).item(), abs=1e-5)
    assert metrics["rewards/short/mean"][0] == pytest.approx(scores[1].mean().item(), abs=1e-5)
    assert list(made._logs["advantages"]) == pytest.approx(expected[:, 0].tolist(), abs=1e-6)


def test_what_abstains_has_no_veto_under_pama(tmp_path):
    three = (letters, short, picky)
    found, made = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, three, MANY, solver=PAMA([1, 1, 1]))
    scores = torch.stack([torch.tensor(made._logs["rewards"][name]) for name in ("letters", "short", "picky")])
    silent = torch.isnan(scores[2])
    assert 0 < silent.sum() < len(silent)
    two, _ = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, three[:2], MANY, solver=PAMA([1, 1]))
    torch.testing.assert_close(found[silent], two[silent], rtol=0, atol=1e-6)
    assert (found[silent] > 0).any()


class LastTokens(Linear):
    """An advantage that differs along the tokens: nothing but the last one of each response counts."""

    def on_advantages(self, advantages, response_mask):
        last = response_mask & ~torch.nn.functional.pad(response_mask, (0, 1))[:, 1:]
        return super().on_advantages(advantages, response_mask) * last


def test_advantages_per_token_reach_the_loss(tmp_path):
    found, made = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, solver=LastTokens(WEIGHTS))
    whole, _ = advantages(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, solver=Linear(WEIGHTS))
    assert found.shape == (8, 6)
    torch.testing.assert_close(found.sum(1), whole)
    made = trl_tiny.trainer(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, solver=LastTokens(WEIGHTS))
    made.train()
    assert made.state.global_step == 2


def test_two_steps_train_the_model_and_log_what_the_solver_did(tmp_path):
    made = trl_tiny.trainer(
        MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, settings={"beta": 0.1}, solver=PAMA([0.5, 0.5])
    )
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    made.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))
    row = made.state.log_history[1]
    expected = ("solver/weight/letters", "solver/weight/short", "advantage/letters/std", "rewards/short/mean", "kl")
    assert set(expected) <= set(row)
    assert row["solver/weight/letters"] + row["solver/weight/short"] == pytest.approx(1.0, abs=1e-5)


ADAPTIVE = {"ctwa": lambda: CTWA([0.5, 0.5], target=2.0, group_size=4), "fastrl": lambda: FastRL([0.5, 0.5])}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_solver_goes_on_from_the_checkpoint(tmp_path, name):
    settings = {"save_strategy": "steps", "save_steps": 1}
    whole = trl_tiny.trainer(
        MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path / "whole", settings=settings, solver=ADAPTIVE[name]()
    )
    whole.train()
    resumed = trl_tiny.trainer(
        MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path / "again", settings=settings, solver=ADAPTIVE[name]()
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    state, expected = resumed.solver.state_dict(), whole.solver.state_dict()
    torch.testing.assert_close(state, expected)
    assert not torch.equal(state["log_weights"], ADAPTIVE[name]().state_dict()["log_weights"])
    (tmp_path / "whole" / "checkpoint-1" / "solver_state.pt").unlink()
    with pytest.raises(UserError, match="holds no solver's state"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))


def test_validation_reaches_a_solver_that_is_steered_by_it(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8}
    made = trl_tiny.trainer(
        MultiObjectiveGRPOTrainer,
        GRPOConfig,
        tmp_path,
        settings=settings,
        solver=DynamicHypervolume([0.5, 0.5]),
        eval_dataset=trl_tiny.Dataset.from_dict({"prompt": ["a b", "c"]}),
    )
    made.train()
    assert len(made.solver.archive) == 2


@pytest.mark.parametrize(
    ("solver", "settings", "says"),
    [
        (MGDA([0.5, 0.5]), {}, "MGDA weighs losses by their gradients[^§]*PAMA"),
        (pcgrad([0.5, 0.5]), {}, "PCGrad weighs losses by their gradients"),
        (DynamicHypervolume([0.5, 0.5]), {}, "steered by validation"),
        (GDPO([0.5, 0.5]), {"scale_rewards": "none"}, "not defined for the advantage"),
        (PAMA([1, 1, 1]), {}, "weights for 3 objectives, and there are 2"),
        (PAMA([1, 1]), {"reward_weights": [1.0, 1.0]}, "reward_weights are given beside a solver"),
        (PAMA([1, 1]), {"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | dict) else "",
)
def test_what_does_not_go_together_is_refused_before_training(tmp_path, solver, settings, says):
    with pytest.raises(UserError, match=says):
        trl_tiny.trainer(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, settings=settings, solver=solver)


def test_a_solver_made_for_other_groups_says_so(tmp_path):
    made = trl_tiny.trainer(MultiObjectiveGRPOTrainer, GRPOConfig, tmp_path, solver=CTWA([0.5, 0.5], group_size=2))
    with pytest.raises(UserError, match=r"groups of 2, and GRPOTrainer has groups of 4"):
        made.train()


def test_the_same_reward_functions_serve_here_and_there():
    batch, answers = tiny.prompts(["a", "b"]), ["a b", "p p p"]
    for name, function in (("letters", letters), ("short", short)):
        there = function(prompts=batch.texts, completions=answers, completion_ids=[], trainer_state=None)
        assert FunctionScorer(f"trl_tiny:{name}").score(batch, answers).tolist() == pytest.approx(there)


@pytest.mark.slow("two processes, and another to compare them with")
def test_two_processes_see_all_rewards_and_take_the_same_steps(tmp_path):
    """CTWA's state is a function of every reward and advantage of the batch."""
    worker = ROOT / "tests" / "integrations" / "trl_worker.py"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(worker), str(tmp_path)),
    ]
    path = f"{ROOT / 'src'}:{ROOT / 'tests'}:{worker.parent}"
    done = subprocess.run(
        command, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["log_weights"] == second["log_weights"]
    assert first["log_weights"][0] != first["log_weights"][1]
    assert first["scores"] == second["scores"]  # the rewards of both, in both
    assert first["scores"][0][:4] != first["scores"][0][4:]
    scores = torch.tensor(first["scores"])
    groups = scores.reshape(2, -1, 4)
    own = ((groups - groups.mean(-1, keepdim=True)) / (groups.std(-1, keepdim=True) + 1e-4)).reshape(2, -1)
    expected = 0.5 * own.sum(0)
    torch.testing.assert_close(torch.tensor(first["advantages"] + second["advantages"]), expected, rtol=0, atol=1e-5)
    assert first["weights"] == second["weights"]  # of the trained model
