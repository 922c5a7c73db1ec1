"""Packages that only some commands need: the package installs them as extras."""

from importlib.util import find_spec

from petseg.errors import UsageError

EXTRAS = {
    **dict.fromkeys(
        ("dvc", "matplotlib", "mlflow", "packaging", "pandas", "requests", "urllib3"), "pipeline"
    ),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    **dict.fromkeys(("fastapi", "uvicorn"), "demo"),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return a line that names the extra to install; None if the module belongs to none."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    extra = EXTRAS[package]
    return f"{package} is not installed, which this needs; install it with: pip install 'petseg[{extra}]'"


def check_installed(package: str) -> None:
    """Check that a package is installed which is run as a program of its own.

    Raises:
        UsageError: it is not.
    """
    if find_spec(package) is None and (line := missing_extra(ModuleNotFoundError(name=package))):
        raise UsageError(line)
