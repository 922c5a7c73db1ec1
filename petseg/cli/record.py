"""``make record``: record the kind of machine that made the dvc.lock to be committed."""

import sys

from petseg.cli.summary import RECORDED, kind_of_machine
from petseg.core.files import sha256_file, why_not
from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.core.textfiles import write_json
from petseg.errors import PetsegError, StoreError
from petseg.pipeline.dvcfiles import LOCK


def record() -> str:
    """Write the file, and return what to commit.

    Raises:
        StoreError: the store does not have the run whose weights are in models/.
    """
    root = main_root()
    made_on = kind_of_machine(root)
    if not made_on:
        raise StoreError("the run whose weights are in models/ is not in runs/; dvc repro -f trains it")
    write_json(root / RECORDED, {"dvc_lock_sha256": sha256_file(root / LOCK), "made_on": made_on})
    return f"recorded on {made_on.get('processor', 'this machine')}: git add {LOCK} {RECORDED} metrics"


if __name__ == "__main__":
    try:
        print_lines(record())
    except (PetsegError, OSError) as error:
        sys.exit(f"petseg: {why_not(error)}")
