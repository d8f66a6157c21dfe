"""trainer.products: which library multiplies, recorded, and the same run but for rounding."""

import json
from pathlib import Path

import pytest
import torch

from commands import run_here


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_either_library_gives_the_same_run_but_for_rounding(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setattr("pama_exp.parallel.products._LEAST", 0)  # products of a model for tests are small
    shared = ["trainer.threads=1", "training.steps=1", "logger=none"]
    norms = {}  # of the gradients
    for name in ("blas", "onednn"):
        run_here(*shared, f"trainer.products={name}", output=tmp_path / name, cache=shared_cache)
        environment = json.loads((tmp_path / name / "environment.json").read_text())
        assert environment["processor"]["products"] == name
        rows = [json.loads(line) for line in Path(tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        norms[name] = next(row["policy/grad_norm"] for row in rows if "policy/grad_norm" in row)
    assert norms["onednn"] == pytest.approx(norms["blas"], rel=1e-3)
    assert norms["onednn"] != norms["blas"]
