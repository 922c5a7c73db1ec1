"""MLflow's registry: a version for each model that was once champion, and the alias of today's."""

import sys

from petseg.store import StoredRun
from petseg.tracking import EXPERIMENT, connect, experiment_id, is_mlflow_trouble, reason

MODEL, ALIAS = "petseg", "champion"


def follow(run: StoredRun) -> str | None:
    """Point the alias at a run's model, registered once.

    Returns:
        The version's number. None, with a warning that says why, where MLflow has no model of the run, or
        does not answer; the store's own log holds in any case.
    """
    why = "infer has not logged a model of it yet"
    try:
        if (version := _version(run)) is not None:
            connect().set_registered_model_alias(MODEL, ALIAS, version)
            return version
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        why = f"it does not answer ({reason(error):.200})"
    print(
        f"warning: MLflow's alias {ALIAS} does not follow: {why}; petseg runs promote again sets it",
        file=sys.stderr,
    )
    return None


def _version(run: StoredRun) -> str | None:
    """Return the version of a run's model; made where there is none."""
    client = connect()
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name = '{MODEL}'"):
        if known.tags.get("run_key") == run.key:
            return str(known.version)
    row = run.manifest.get("mlflow_run_id")
    if row is None:
        return None
    models = client.search_logged_models([experiment_id(client, EXPERIMENT)], f"source_run_id = '{row}'")
    model = next((model for model in models if model.status == LoggedModelStatus.READY), None)
    if model is None:
        return None
    source = f"models:/{model.model_id}"
    made = client.create_model_version(MODEL, source, row, {"run_key": run.key}, model_id=model.model_id)
    return str(made.version)
