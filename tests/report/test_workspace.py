"""The W&B workspace is built without an account, and what it shows are metrics that runs log."""

import json
import re

import pytest

from pama_exp.errors import UserError
from pama_exp.report.workspace import build_workspace, main

# wandb-workspaces itself is written for an older pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")


def panels(*objectives):
    spec = build_workspace("team", "pama-exp", objectives)._to_model().model_dump_json()
    sections = json.loads(spec)["spec"]["section"]["panel_bank_config"]["sections"]
    return {
        section["name"]: [panel["view_type"] for panel in section["panels"]]
        for section in sections
        if section["panels"]
    }, spec


def test_it_has_the_front_curves_solver_and_texts_and_groups_by_solver():
    shown, spec = panels("helpful", "concise")
    assert shown["Where the policies end"][:2] == ["Scatter Plot", "Bar Chart"]
    assert shown["Training"] == ["Run History Line Plot"] * 5
    assert len(shown["Proxy against gold"]) == 2
    assert "result.objectives.helpful.after.gold" in spec
    for metric in ("solver/binding_share/concise", "eval/gold/helpful/mean", "kl/response", "train/step"):
        assert metric in spec
    assert re.search(r"experiment[^}]*solver[^}]*_target_", spec)
    assert shown["Cost"] == ["Bar Chart"] * 4
    assert "result.bill.backwards" in spec


def test_runs_are_sorted_by_solver():
    runset = build_workspace("team", "pama-exp", ["helpful", "concise"]).runset_settings
    assert [(each.item.name, each.ascending) for each in runset.order] == [("experiment.solver._target_", True)]


def test_four_objectives_are_parallel_coordinates():
    assert "Parallel Coordinates Plot" in panels("helpful", "concise", "humor", "polite")[0]["Where the policies end"]


def test_no_objective_is_a_mistake():
    with pytest.raises(UserError, match="No objective"):
        build_workspace("team", "pama-exp", [])


def test_a_project_without_its_entity_is_a_mistake(capsys):
    assert main(["pama-exp", "helpful"]) == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err
