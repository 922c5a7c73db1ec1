"""SIGKILL at random moments of the commands that change the store: it has its old state or the new one."""

import os
import random
import signal
from collections.abc import Callable

import pytest

from petseg.store.verify import verify
from tests.support.project import Project, killed_after

KILLS = 200
MOST_S = {"infer": 3.0, "plot": 6.0}  # a command is killed within this time, the others within 1 s
Commands = dict[str, Callable[[], list[str]]]


def commands(project: Project, chance: random.Random) -> Commands:
    """The commands that change the store or MLflow. Each function prepares work for its command."""
    petseg = ["-m", "petseg", "runs"]

    def keys(adopted: bool) -> list[str]:
        return [key for key, manifest in project.manifests().items() if ("adopted" in manifest) is adopted]

    def adopt() -> list[str]:
        (project.folder / "found.bin").write_bytes(chance.randbytes(300_000))
        return [*petseg, "adopt", "found.bin"]

    def prune() -> list[str]:
        return [*petseg, "prune", chance.choice(keys(adopted=True) or ["0"]), "--yes"]

    def promote() -> list[str]:
        return [*petseg, "promote", chance.choice(keys(adopted=False)), "--force"]

    def restore() -> list[str]:
        return [*petseg, "restore", chance.choice(keys(adopted=False)), "--force"]

    def infer() -> list[str]:
        text = (project.folder / "params.yaml").read_text()
        line = next(line for line in text.splitlines() if line.startswith("  threshold: "))
        project.edit("params.yaml", {line: f"  threshold: {chance.uniform(0.3, 0.7):.3f}"})
        return project.command("infer")[1:]

    def plot() -> list[str]:
        return project.command("plot")[1:]

    def sync() -> list[str]:
        return [*petseg, "sync", "--all"]

    return {each.__name__: each for each in (adopt, prune, promote, restore, infer, plot, sync)}


@pytest.mark.slow
@pytest.mark.fault(61, f"SIGKILL at {KILLS} random moments of what changes the store")
def test_a_store_stays_consistent_when_commands_are_killed(two: Project) -> None:
    chance = random.Random(0)
    makes = commands(two, chance)
    kills, ends = 0, 0
    while kills < KILLS:
        name = chance.choice(list(makes))
        code, printed = killed_after(two, makes[name](), chance.uniform(0, MOST_S.get(name, 1.0)))
        assert "Traceback" not in printed, printed
        report = verify(two.folder, None, copies=lambda _: ())
        assert report.damages == [], (name, printed)
        kills, ends = kills + (code == -signal.SIGKILL), ends + (code == 0)
        print(f"{name}: {kills} kills, {ends} came to their end", flush=True)
    assert "none differ" in two.run("python", "-m", "petseg", "runs", "verify")  # also of MLflow's copies
    assert ends > KILLS / 10, "it was killed before it did anything"
    left = [path for path in (two.folder / "runs").rglob(".*.tmp") if str(os.getpid()) not in path.name]
    assert left == []
