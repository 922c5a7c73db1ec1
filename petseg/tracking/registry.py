"""MLflow's registry: a version for each run's model, and an alias for the champion's."""

from typing import TYPE_CHECKING

from petseg.core.terminal import print_lines
from petseg.store.run import StoredRun
from petseg.tracking.client import connect, is_mlflow_trouble, reason
from petseg.tracking.queries import row_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL, ALIAS = "petseg", "champion"


def follow(run: StoredRun) -> str | None:
    """Point the champion's alias at a run's model, which is registered if needed.

    Returns:
        The version's number; None if MLflow has no model of the run or does not answer, with a warning. The
        store's own log has the champion in any case.
    """
    why = "infer has not logged a model of it yet"
    try:
        client = connect()
        if (version := version_of(client, run)) is not None:
            client.set_registered_model_alias(MODEL, ALIAS, version)
            return version
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        why = f"it does not answer ({reason(error)})"
    print_lines(
        f"warning: MLflow's alias {ALIAS} is not updated: {why}; petseg runs promote ID sets it", err=True
    )
    return None


def version_of(client: "MlflowClient", run: StoredRun) -> str | None:
    """Return the version of a run's model, which is created if needed; None if the run has no model."""
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{MODEL}' and tags.run_uid = '{run.uid}'")
    if known:
        return str(known[0].version)
    row = row_of(client, run)
    if row is None:
        return None
    models = client.search_logged_models([row.info.experiment_id], f"source_run_id = '{row.info.run_id}'")
    model = next((model for model in models if model.status == LoggedModelStatus.READY), None)
    if model is None:
        return None
    made = client.create_model_version(
        MODEL,
        f"models:/{model.model_id}",
        row.info.run_id,
        {"run_key": run.key, "run_uid": run.uid},
        model_id=model.model_id,
        await_creation_for=0,
    )
    return str(made.version)
