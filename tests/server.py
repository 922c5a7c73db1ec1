"""A real ``mlflow server`` on loopback, for tests and benchmarks to stop, kill and start again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import requests

from tests.test_sources import closed_port


class MlflowServer:
    """``mlflow server`` with a database and artifacts of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Choose a port; ``environment`` is what the server is started with."""
        self.folder, self._environment, self._port = folder, environment, closed_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "--host": "127.0.0.1",
            "--port": f"{self._port}",
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination": f"{self.folder}/artifacts",
        }
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                ["mlflow", "server", *(word for option in options.items() for word in option)],
                cwd=self.folder,
                env=self._environment | quiet,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while True:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                requests.get(f"{self.uri}/health", timeout=5)
                return
            except requests.ConnectionError:
                time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        """Send it and its workers a signal, such as SIGSTOP, after which it is silent, or SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None
