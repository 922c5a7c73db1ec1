"""How MLflow's pages show the trainings: a saved view, which is a tag of the experiment.

By default, MLflow shows no param, no metric and no tag in its table of runs.
"""

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel

from petseg.params import AugmentParams, ModelParams, TrainParams

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW, NAME = "trainings", "Trainings"
_TAG = f"mlflow.sharedViewState.{VIEW}"
_SECTIONS: dict[str, type[BaseModel]] = {"model": ModelParams, "train": TrainParams, "augment": AugmentParams}

# The first columns, and their widths.
_FIRST = {
    "attributes.`Run Name`": 140,
    "runDateAndNestInfo": 125,  # when the run was made
    "params.`model.name`": 100,
    "metrics.`best/val_dice`": 110,
    "metrics.`test/dice_foreground`": 150,
    "metrics.`test/dice_background`": 158,
    "metrics.`test/dice_ignore`": 120,
    "metrics.`seconds`": 80,
    "metrics.`images_per_s`": 105,
    "tags.`data_sha256`": 105,
    "attributes.`Version`": 80,  # the commit
    "tags.`dvc_experiment`": 130,
    "attributes.`Models`": 120,
    "metrics.`test/dice_per_image`": 155,  # by the rule of data.boundary, with its interval
    "metrics.`test/dice_per_image_low`": 168,
    "metrics.`test/dice_per_image_high`": 172,
}
_WIDTH = 120  # of a param's column
_ALWAYS = ("attributes.`Run Name`", "runDateAndNestInfo")  # shown without being selected


def link(experiment_id: str, charts: bool = False) -> str:
    """Return the part of a link after the server's address: the table of the trainings, or their charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}{mode}"


def save_view(client: "MlflowClient", experiment_id: str) -> None:
    """Write the view and the links to it, unless they exist: a user may have changed them."""
    known = client.get_experiment(experiment_id).tags
    table, charts = link(experiment_id)[1:], link(experiment_id, charts=True)[1:]
    note = f"[Table of all trainings]({table}), [their curves and masks]({charts})"
    for tag, value in {_TAG: _envelope(), "mlflow.note.content": note}.items():
        if tag not in known:
            client.set_experiment_tag(experiment_id, tag, value)


def _envelope() -> str:
    params = ["data.image_size"]
    params += [f"{name}.{key}" for name, section in _SECTIONS.items() for key in section.model_fields]
    widths = _FIRST | {column: _WIDTH for key in params if (column := f"params.`{key}`") not in _FIRST}
    state = {
        "searchFilter": "tags.stage = 'train'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [column for column in widths if column not in _ALWAYS],
        "columnOrder": list(widths),
        "columnWidths": widths,
        "compareRunSections": [
            _section("curves", columns=3, height=300),
            _section("evolution", columns=1, height=390),
            _section("scores", columns=3, height=260),
        ],
        "compareRunCharts": [
            _line("loss/train"),
            _line("loss/val"),
            _line("dice/val"),
            # Step 1, because MLflow shows no image of a run that has none at exactly this step.
            _card("evolution", "IMAGE", "evolution", imageKeys=["evolution"], step=1, showRunParams=False),
            *(
                _card("scores", "BAR", metric, metricKey=metric)
                for metric in ("test/dice_foreground", "test/dice_background", "test/dice_ignore")
            ),
            _card("scores", "BAR", "best/val_dice", metricKey="best/val_dice"),
            _card("scores", "BAR", "seconds", metricKey="seconds"),
        ],
        "isAccordionReordered": True,
    }
    return json.dumps({"name": NAME, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def _section(name: str, columns: int, height: int) -> dict[str, object]:
    return {
        "uuid": f"petseg-{name}",
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": height,
    }


def _card(section: str, kind: str, name: str, **more: object) -> dict[str, object]:
    return {
        "uuid": f"petseg-{name}",
        "type": kind,
        "metricSectionId": f"petseg-{section}",
        "displayName": name,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    } | more


def _line(metric: str) -> dict[str, object]:
    return _card(
        "curves",
        "LINE",
        metric,
        metricKey=metric,
        lineSmoothness=0,
        xAxisScaleType="linear",
        scaleType="linear",
        range={},
        xAxisKey="step",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )
