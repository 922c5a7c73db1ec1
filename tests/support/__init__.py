"""Code that tests share and that is no fixture: clones of the project, drawn pets, servers. It holds no test.

pets           photos and masks, drawn or from the sample, and archives and folders that hold them
runs           a finished run of the store, with a network of random weights
store          small runs of a store, without a network; the command ``petseg`` in this process
results        the files that the pipeline leaves for the report
project        a clone of this repository, in which tests run the pipeline as a user does
forked         a server that starts Python and DVC for such a clone at once; ask_forked is its client
failing_io     programs in which one call to the disk fails, and folders that are brought back to a state
fuzz           mutated samples for each parser of files that others wrote, in a separate process
http_server    a file server that breaks off, and a port on which nobody listens
mlflow_server  MLflow's server, and a model that it serves
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MINI = ROOT.parent / "shared/data/mini"  # original photos, which not every checkout has beside it

# Source of a function for programs that tests start. It returns the peak of memory of the process itself;
# getrusage would include the memory of its parent.
PEAK_KB = """
def peak_kb():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0])
"""
