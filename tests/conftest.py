"""Shapes are types: under pytest every jaxtyping annotation of floors 0 to 2 is checked by beartype at run time."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# No test may reach a hub or an account.
# Several workers share the cores; one thread each is quicker than all of them each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

pytest.register_assert_rewrite("conformance")

# Where CI is set hypothesis would draw the same examples for ever. What fails is kept beside its test as an @example.
settings.register_profile("afresh", settings.get_profile("default"), derandomize=False, print_blob=True)
settings.load_profile("afresh")

# Packages without arrays in their signatures are left out: checking calls of scalars takes longer than the calls.
_CHECKED = ["types", "solvers", "rl", "data", "policy", "rewards", "rollout"]
_SOURCE = Path(__file__).parents[1] / "src" / "pama_exp"
for _package in _CHECKED:
    assert (_SOURCE / _package).is_dir() or (_SOURCE / f"{_package}.py").is_file(), f"nothing to check in {_package}"
install_import_hook([f"pama_exp.{package}" for package in _CHECKED], "shapes.check")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache of micro models for the whole test session, shared by its workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


def pytest_collection_modifyitems(items):
    """A test that only the whole suite runs (`-m ""`) says why it is slow."""
    for item in items:
        for mark in item.iter_markers("slow"):
            if len(mark.args) != 1 or not isinstance(mark.args[0], str):
                raise pytest.UsageError(f'{item.nodeid}: write why it is slow: @pytest.mark.slow("…")')
