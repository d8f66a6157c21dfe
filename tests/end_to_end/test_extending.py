"""A solver, an objective and a model are each added by one yaml and at most one Python file, beside the user's command."""

import pytest

from commands import FAST, run_command
from pama_exp.tracking.record import RunRecord

SOLVER = '''
import torch
from pama_exp.solvers.solver import Solver

class Worst(Solver):
    """All weight on the objective whose mean advantage is lowest."""

    def __init__(self, weights, sharpness=1.0):
        super().__init__(weights)
        self.sharpness = sharpness

    def on_advantages(self, advantages, response_mask):
        low = (advantages * response_mask).sum((1, 2)) * self.sharpness
        self.latest_weights = torch.nn.functional.one_hot(low.argmin(), len(low)).float()
        return torch.einsum("n,nbt->bt", self.latest_weights, advantages)[None]
'''
OBJECTIVE = """
def shout(prompts, completions, **columns):
    return [float("!" in text) for text in completions]
"""


@pytest.mark.parametrize(
    ("yaml", "python", "overrides", "expected"),
    [
        pytest.param(
            ("solver/worst.yaml", "_target_: my_solver.Worst\nweights: null\nsharpness: 2.0\n"),
            ("my_solver.py", SOLVER),
            ["solver=worst", "solver.sharpness=3.0", "reward=gold"],
            ["helpful", "concise"],
            id="solver",
        ),
        pytest.param(
            ("objectives/loud.yaml", "loud:\n  weight: 0.5\n  scorers:\n    any: {function: 'my_objective:shout'}\n"),
            ("my_objective.py", OBJECTIVE),
            ["objectives=[concise,loud]", "reward=gold"],
            ["concise", "loud"],
            marks=pytest.mark.slow("a process"),
            id="objective",
        ),
        pytest.param(
            (
                "model/mine.yaml",
                "name: mine\narchitecture: llama\nconfig: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
                "num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 96}\npath: null\n",
            ),
            None,
            ["model=mine", "reward=gold"],
            ["helpful", "concise"],
            marks=pytest.mark.slow("a process"),
            id="model",
        ),
    ],
)
def test_one_yaml_and_at_most_one_python_file(yaml, python, overrides, expected, tmp_path):
    path = tmp_path / "my_conf" / yaml[0]
    path.parent.mkdir(parents=True)
    path.write_text(yaml[1])
    if python is not None:
        (tmp_path / python[0]).write_text(python[1])
    done = run_command(
        "--config-dir", "my_conf", *FAST, *overrides, "output=out", f"cache_dir={tmp_path / 'cache'}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "weights_only" not in done.stderr  # Lightning's words
    assert "Trainer.fit" not in done.stderr
    result = RunRecord.open(tmp_path / "out").read_result()
    assert list(result["objectives"]) == expected
    if "loud" in expected:
        assert result["objectives"]["loud"]["after"]["gold"] is None
        assert result["true_hypervolume_share"]["after"] is None
