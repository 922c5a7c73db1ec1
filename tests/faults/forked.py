"""Start a stage at each line of standard input, forked from here, where all that is slow is imported already.

``python forked.py LOG STAGE ARGUMENT...`` prints the pid of each start, and its exit code once it has ended.
"""

import importlib
import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))  # as python -m has it

for slow in (
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "petseg.store.writer",
    "torch._dynamo",  # which an optimizer's first step imports
):
    importlib.import_module(slow)

log = Path(sys.argv[1])
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
