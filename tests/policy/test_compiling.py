"""A run whose transformer blocks are compiled learns what one whose are not does, and compiles them once."""

import pytest

from commands import FAST, learning, run_command, run_here
from pama_exp.errors import UserError
from pama_exp.tracking.record import RunRecord


@pytest.mark.slow("torch.compile")
def test_a_run_learns_the_same_and_compiles_in_its_first_step_alone(tmp_path, shared_cache):
    settings = ["solver=mgda", "trainer.threads=1", "logger=none"]  # MGDA goes back through one graph several times
    plain = run_here(*settings, output=tmp_path / "plain", cache=shared_cache)
    # In a process of its own: shapes that are checked at every call, as tests check them, are not compiled.
    where = [f"output={tmp_path / 'compiled'}", f"cache_dir={shared_cache}"]
    done = run_command(*FAST, *settings, *where, "trainer.compile=true", cwd=tmp_path, TORCH_LOGS="recompiles")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "Compiling transformer blocks" in said
    assert said.count("Recompiling function") == said.count("grad_mode") == 1  # the reference's pass, then the update's
    compiled = RunRecord.open(tmp_path / "compiled")
    assert compiled.read_generations() == plain.read_generations()
    for mine, other in zip(compiled.read_metrics(), plain.read_metrics(), strict=True):
        assert learning([mine]) == [pytest.approx(row, abs=1e-4, nan_ok=True) for row in learning([other])]


def test_without_a_compiler_it_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"trainer.compile=true: torch finds no C\+\+ compiler"):
        run_here("trainer.compile=true", output=tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
