"""``petseg runs``: the commands for the store of every run ever trained.

``looking`` has those that only read the store, ``keeping`` those that copy or check weights, and ``deciding``
those that change the champion, MLflow or the disk. ``find`` finds the run that a user names.
"""

import typer

from petseg.cli.output import answering
from petseg.cli.runs.deciding import champion, promote, prune, sync
from petseg.cli.runs.find import found_run as found_run
from petseg.cli.runs.keeping import adopt, export, reproduce, restore, verify
from petseg.cli.runs.looking import list_runs, show, which

app = typer.Typer(no_args_is_help=True, help="Every run ever trained: list, show, restore, verify.")
app.command("list")(answering(list_runs))
for command in (show, restore, verify, which, reproduce, prune, adopt, promote, export, sync, champion):
    app.command()(answering(command))
