"""Every shipped yaml composes into the schema, and the folder's name follows from the configuration."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from commands import composed
from pama_exp.config import schema
from pama_exp.config.instantiate import locate
from pama_exp.config.naming import solver_label
from pama_exp.config.schema import CONF

# Solvers are composed below; presets set several groups.
GROUPS = sorted({path.parent.name for path in CONF.glob("*/*.yaml")} - {"debug", "experiment", "solver"})
PRESETS = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.parent.name in ("debug", "experiment")
)


def rounds():
    """Words that name an option of every group, as often as it takes to name each option once."""
    options = [sorted(f"{group}={path.stem}" for path in CONF.glob(f"{group}/*.yaml")) for group in GROUPS]
    return [[each[at] for each in options if at < len(each)] for at in range(max(map(len, options)))]


@pytest.mark.parametrize("words", [*rounds(), *([preset] for preset in PRESETS)], ids=" ".join)
def test_every_option_composes(words):
    schema.typed(composed(*words))


def test_every_option_says_what_it_is_in_its_first_line():
    for path in CONF.rglob("*.yaml"):
        assert path.read_text().startswith("#"), path


@pytest.mark.parametrize("path", sorted(CONF.glob("solver/*.yaml")), ids=lambda path: path.stem)
def test_folders_and_tables_call_a_solver_what_the_command_line_calls_it(path):
    assert solver_label(OmegaConf.load(path)) == path.stem


@pytest.mark.parametrize("path", sorted(CONF.glob("solver/*.yaml")), ids=lambda path: path.stem)
def test_a_solver_that_needs_an_estimator_says_the_words_for_it_in_its_first_line(path):
    supported = getattr(locate(OmegaConf.load(path), "solver"), "estimators", ())
    said = path.read_text().splitlines()[0]
    assert ("advantage=group" in said) == bool(supported)
    assert ("advantage.baseline=standardise" in said) == (supported == ("group/standardise",))


def test_the_run_folder_is_named_after_what_determines_the_numbers():
    def folder(*overrides: str) -> str:
        return Path(schema.typed(composed(*overrides)).output).name

    plain = folder()
    assert plain.startswith("tiny-helpful+concise-pama-s0-")
    assert folder("logger.mode=disabled", "trainer.threads=1", "force=true") == plain
    assert (
        len({plain, folder("training.clip=0.1"), folder("seed=1"), folder("solver.noon=false"), folder("reward=gold")})
        == 5
    )
