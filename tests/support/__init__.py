"""What tests share that is no fixture: clones of the project, drawn pets, servers. No test is in here.

pets           photos and masks, drawn or of the sample, and the archives and folders that hold them
runs           a finished run of the store, with random weights
store          small runs of a store, without a network, and the command in this process
results        what the pipeline leaves for the report
project        a clone of this repository, whose pipeline runs as a user runs it
forked         Python and DVC for such a clone, at once; ask_forked asks it for them
fuzz           each parser of what others write, with mutated samples, in a process apart
http_server    a server of files that breaks off, and a port where nobody listens
mlflow_server  MLflow's server, and a model that it serves
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MINI = ROOT.parent / "shared/data/mini"  # original photos, which are not beside every checkout

# Source of a function for programs that tests start: the process's own peak of memory. (getrusage
# would count what its parent held.)
PEAK_KB = """
def peak_kb():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0])
"""
