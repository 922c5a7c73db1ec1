"""The pipeline's stages, one script each; dvc.yaml calls them by python -m stages.NAME --OPTION PATH ..."""

from importlib.util import find_spec

if not (find_spec("pydantic") and find_spec("torch")):
    raise SystemExit("petseg: the environment is not active; run: make env && source .venv/bin/activate")
