"""The pipeline's stages, one script each, as dvc.yaml calls them: python -m stages.NAME PATHS."""

from importlib.util import find_spec

if find_spec("pydantic") is None:
    raise SystemExit("petseg: the environment is not active; run: make env && source .venv/bin/activate")
