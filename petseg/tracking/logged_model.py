"""Logs a trained network as an MLflow model, made of this code and safetensors, without a pickle."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ParamSchema, ParamSpec, Schema, TensorSpec

import petseg

if TYPE_CHECKING:  # mlflow runs the file; the import lets petseg.pipeline.codehash know that it is used
    import petseg.tracking.pyfunc

NAME, EVALUATION_TAG = "petseg", "evaluation"
_NEEDED = (
    *(
        "mlflow",
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "pandas",
        "pillow",
        "pydantic",
        "rich",
        "ruamel.yaml",
    ),
    "safetensors",
)

# In MLflow, an object tensor of one dimension allows any input: a photo, (H, W, 3), a batch, (N, H, W, 3),
# and files in base64 have no other signature in common. The model checks its input itself.
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    params=ParamSchema([ParamSpec("edge", "string", "tight"), ParamSpec("as_is", "boolean", default=False)]),
)


def log_model(
    client: "mlflow.MlflowClient",
    run_id: str,
    weights: Path,
    about: Path,
    decision: Mapping[str, object],
    tags: Mapping[str, str],
    example: Any,
) -> str:
    """Log a model for a run, once for each evaluation, and return the model's id.

    Args:
        client: a client of the tracking store.
        run_id: the MLflow run that trained the model; it need not be open.
        weights: the path of model.safetensors.
        about: the path of model.json.
        decision: ``thresholds`` and ``flip_average``, by which probability becomes a mask.
        tags: the model's tags; EVALUATION_TAG has the key of the evaluation.
        example: an input to keep with the model, (H, W, 3) uint8; None for none.
    """
    experiment = client.get_run(run_id).info.experiment_id
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if known.status != LoggedModelStatus.READY:  # its process was killed, or its files did not arrive
            client.delete_logged_model(known.model_id)
        elif known.tags.get(EVALUATION_TAG) == tags[EVALUATION_TAG]:
            return str(known.model_id)
    mlflow.set_experiment(experiment_id=experiment)
    with tempfile.TemporaryDirectory() as folder:
        decision_file = Path(folder, "decision.json")
        decision_file.write_text(json.dumps(dict(decision)), encoding="utf-8")
        package = Path(folder, "code", "petseg")
        shutil.copytree(Path(petseg.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=NAME,
            tags=dict(tags),
            run_id=run_id,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={
                "weights": str(weights),
                "about": str(about),
                "decision": str(decision_file),
            },
            code_paths=[str(package)],
            pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED],
            signature=SIGNATURE,
            input_example=example,
        )
    return str(info.model_id)
