"""`python -m pama_exp.report.workspace ENTITY/PROJECT OBJECTIVE…`: the comparison as a W&B workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pama_exp.errors import UserError
from pama_exp.safety.arguments import Parser
from pama_exp.safety.failing import guarded
from pama_exp.tracking.console import note, print_error
from pama_exp.tracking.run_wandb import why_no_key

_GROUP_BY = "experiment.solver._target_"  # where W&B's config holds the solver
_COSTS = {"seconds": "Seconds", "tokens": "Tokens", "backwards": "Backward passes", "forwards": "Forward passes"}


def build_workspace(entity: str, project: str, objectives: Sequence[str]) -> Any:
    """A W&B workspace with panels for results, training, proxy against gold rewards, the solver and generations.

    Raises:
        UserError: if wandb-workspaces is not installed, or if `objectives` is empty.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"The workspace needs wandb-workspaces ({error}).", "pip install 'pama-exp[workspaces]'."
        ) from None
    if not objectives:
        raise UserError("No objective is named.", "Give them as the runs have them: helpful concise.")

    def line(metric: str, title: str) -> Any:
        return wr.LinePlot(x="train/step", y=[metric], title=title, smoothing_type="none")

    after = [f"result.objectives.{name}.after.gold" for name in objectives]
    pairs = [(i, j) for i in range(len(objectives)) for j in range(i + 1, len(objectives))]
    points = (
        [wr.ScatterPlot(x=wr.SummaryMetric(after[i]), y=wr.SummaryMetric(after[j]),
                        title=f"{objectives[i]} against {objectives[j]}") for i, j in pairs]
        if len(objectives) <= 3
        else [wr.ParallelCoordinatesPlot(title="All objectives", columns=[
            wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(metric)) for metric in after])]
    )  # fmt: skip
    share = wr.BarPlot(
        metrics=[wr.SummaryMetric("result.true_hypervolume_share.after")], title="Share of the true front"
    )
    sections = {
        "Where the policies end": [*points, share, wr.WeavePanelSummaryTable(table_name="front")],
        "Training": [line(f"reward/{name}/mean", f"{name}: reward in training") for name in objectives]
        + [line(f"eval/gold/{name}/mean", f"{name}: gold, held-out") for name in objectives]
        + [line("kl/response", "KL to the reference")],
        "Proxy against gold": [
            wr.ScatterPlot(x=f"eval/proxy/{name}/mean", y=f"eval/gold/{name}/mean", title=name) for name in objectives
        ],
        "The solver": [line(f"solver/weight/{name}", f"{name}: weight") for name in objectives]
        + [line(f"solver/binding_share/{name}", f"{name}: binding share") for name in objectives],
        "Cost": [
            wr.BarPlot(metrics=[wr.SummaryMetric(f"result.bill.{key}")], title=title) for key, title in _COSTS.items()
        ],
        "Generations": [wr.WeavePanelSummaryTable(table_name="generations")],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Solvers compared - {' and '.join(objectives)}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(_GROUP_BY)], order=[ws.Ordering(ws.Config(_GROUP_BY))]),
    )


def main(arguments: list[str] | None = None) -> int:
    """Save the workspace; returns the exit status, 2 for a user's mistake or without a W&B account."""
    parser = Parser("python -m pama_exp.report.workspace", description="A W&B comparison dashboard.")
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument("objectives", nargs="+", metavar="OBJECTIVE")
    args = parser.parse_args(arguments)
    try:
        save(args.project, args.objectives)
    except UserError as error:
        print_error(error)
        return 2
    return 0


def save(project: str, objectives: Sequence[str]) -> None:
    """Save the workspace of ENTITY/PROJECT, and say where it is.

    Raises:
        UserError: for another form of project, without the package, and without an account.
    """
    entity, slash, name = project.partition("/")
    if not (entity and slash and name):
        raise UserError(f"'{project}' is not ENTITY/PROJECT.", "Give both, such as my-team/pama-exp.")
    note(f"Workspace: {_save(build_workspace(entity, name, objectives))}")


def _save(workspace: Any) -> str:
    if why_no_key():
        raise UserError("Saving a workspace needs a W&B account.", "`wandb login`, then the same command.")
    return str(workspace.save().url)


if __name__ == "__main__":
    guarded(main, "report")
