"""Serves MLflow's pages to this machine only, and prints links to the trainings."""

import os
import socket
import sys
from typing import Never

from petseg.core.project import tracking_uri
from petseg.core.terminal import print_lines
from petseg.errors import StoreError, UsageError
from petseg.tracking.client import EXPERIMENT, connect, experiment_id, is_mlflow_trouble, reason
from petseg.tracking.outbox import flush_outbox
from petseg.tracking.view import link, save_view

HOST = "127.0.0.1"


def serve(port: int) -> Never:
    """Print links to the trainings, and become MLflow's server, unless the tracking store is a server.

    It has one worker, and no jobs for MLflow's language model tools: 2 processes with 0.5 GB instead of 15
    with 1.9 GB.

    Raises:
        UsageError: the port is taken.
        StoreError: MLflow's store can't be opened.
    """
    uri = tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    if not remote and _is_taken(port):
        raise UsageError(f"port {port} of {HOST} is taken; choose another: make ui PORT={port + 1}")
    flush_outbox()
    try:
        client = connect()
        experiment = experiment_id(client, EXPERIMENT)
        save_view(client, experiment)
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        raise StoreError(f"MLflow does not answer ({reason(error)})") from None
    address = tracking_uri() if remote else f"http://{HOST}:{port}"  # connect() removed the password
    print_lines(f"the trainings:   {address}{link(experiment)}")
    print_lines(f"curves, masks:   {address}{link(experiment, charts=True)}")
    if remote:
        sys.exit(0)
    # The URI is passed in the environment, because every user can read a command line and a password in it.
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", HOST, "--port", f"{port}"]
    os.execv(sys.executable, command)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
