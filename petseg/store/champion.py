"""The champion: which model is in use, by a log that only grows; MLflow's alias follows it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from petseg.core.locks import held
from petseg.core.project import now, user
from petseg.errors import PromotionRefused, StoreError
from petseg.store.run import StoredRun, run_of

LOG = "champions.jsonl"


@dataclass(frozen=True)
class Promotion:
    """One line of the log.

    Attributes:
        when: in UTC.
        key: of the run that became champion.
        val_dice: its validation Dice.
        before: key of the champion that it replaced.
        forced: whether it would have been refused.
        by: who promoted it.
    """

    when: str
    key: str
    val_dice: float | None
    before: str | None
    forced: bool
    by: str


def promotions(store: Path) -> list[Promotion]:
    """Return the log, the champion's line last.

    Raises:
        StoreError: it can't be read.
    """
    path = store / LOG
    try:
        return [Promotion(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: can't be read ({error})") from None


def champion(store: Path) -> str | None:
    """Return the key of today's champion; None where there has been no promotion."""
    log = promotions(store)
    return log[-1].key if log else None


def promote(run: StoredRun, force: bool) -> Promotion | None:
    """Make a finished run the champion; of two at once the later one is, and both are in the log.

    Returns:
        The new line of the log; None where the run is the champion already.

    Raises:
        PromotionRefused: it is not known to be as good as today's champion, and not forced.
        StoreError: it is not finished, or a file of it differs from the record.
    """
    if not run.finished:
        raise StoreError(f"run {run.key} is not finished")
    if damages := list(run.damages()):
        raise StoreError(f"run {run.key} is damaged: {damages[0]}")
    store = run.folder.parent
    with held(store / f".{LOG}.lock"):
        before = champion(store)
        if before == run.key:
            return None
        doubt = _doubt(run, run_of(store, before)) if before else None
        if doubt and not force:
            raise PromotionRefused(f"run {run.key} {doubt}; --force promotes it all the same")
        line = Promotion(now(), run.key, run.val_dice, before, bool(doubt), user())
        with (store / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return line


def _doubt(run: StoredRun, today: StoredRun | None) -> str | None:
    """Say why a run is not known to be as good as today's champion."""
    if today is None:
        return "can't be held against today's champion, which the store has lost"
    if run.val_dice is None or today.val_dice is None:
        return f"can't be held against today's champion {today.key}: a validation Dice is not known"
    if run.manifest["data_sha256"] != today.manifest["data_sha256"]:
        return f"was validated on other photos than today's champion {today.key}"
    if run.val_dice < today.val_dice:
        return (
            f"has a validation Dice of {run.val_dice:.4f}, "
            f"less than today's champion {today.key} with {today.val_dice:.4f}"
        )
    return None
