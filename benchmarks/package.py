"""What the package takes: ``python -m benchmarks.package dist/petseg-*.whl`` prints a Markdown table.

``make wheel`` makes the wheel. It is installed by uv into an empty environment for each extra.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EXTRAS = ("", "demo", "onnx", "pipeline", "all")
TORCH = ("torch", "torchvision", "triton", "nvidia", "cuda")  # beginnings of folders
ROUNDS = 5
TIMED = """
import time
begun = time.perf_counter(); import petseg; imported = time.perf_counter(); petseg.load()
print(imported - begun, time.perf_counter() - imported)
"""


def main(wheel: Path) -> None:
    """Print the table, and the times of importing and loading."""
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB\n")
    print("| installed | packages | MB besides torch | MB of torch and CUDA |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for extra in EXTRAS:
            name = f"petseg[{extra}]" if extra else "petseg"
            python = install(f"{name} @ {wheel.resolve().as_uri()}", Path(folder, extra or "alone"))
            packages, other_mb, torch_mb = sizes(python)
            print(f"| `{name}` | {packages} | {other_mb:.0f} | {torch_mb:.0f} |", flush=True)
        python = Path(folder, "alone/bin/python")
        runs = [run(python, "-P", "-c", TIMED).split() for _ in range(ROUNDS)]
    importing, loading = (statistics.median(map(float, each)) for each in zip(*runs, strict=True))
    print(f"\n`import petseg`: {importing:.3f} s; `petseg.load()`: {loading:.1f} s; median of {ROUNDS}")


def install(requirement: str, folder: Path) -> Path:
    """Install a requirement into a new environment; return its Python."""
    run(Path(sys.executable), "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin/python"
    run(
        Path(sys.executable).with_name("uv"),
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        requirement,
    )
    return python


def sizes(python: Path) -> tuple[int, float, float]:
    """Return how many packages an environment has, and the MB of torch's and of the others."""
    (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
    files = [file for file in packages.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    taken = {file: file.stat().st_size / 1e6 for file in files}
    torch = sum(mb for file, mb in taken.items() if file.relative_to(packages).parts[0].startswith(TORCH))
    return len(list(packages.glob("*.dist-info"))), sum(taken.values()) - torch, torch


def run(program: Path, *arguments: str) -> str:
    """Run a program; return what it prints."""
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
