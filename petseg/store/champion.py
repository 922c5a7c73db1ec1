"""The champion, which is the model in use, by the store's ledger; MLflow's alias follows it."""

from dataclasses import dataclass
from pathlib import Path

from petseg.core.formats import score
from petseg.core.project import now, user
from petseg.core.terminal import warn_once
from petseg.errors import PromotionRefused, StoreError
from petseg.store.before import earlier_promotions
from petseg.store.chain import PROMOTED, read_ledger
from petseg.store.ledger import changing
from petseg.store.run import StoredRun
from petseg.store.runs import run_of


@dataclass(frozen=True)
class Promotion:
    """One promotion.

    Attributes:
        when: the time, in UTC.
        key: key of the run that became champion.
        val_dice: its validation Dice.
        before: key of the champion that it replaced.
        forced: whether it would have been refused without --force.
        by: the user who promoted it.
    """

    when: str
    key: str
    val_dice: float | None
    before: str | None
    forced: bool
    by: str


def promotions(store: Path) -> list[Promotion]:
    """Return all promotions, the champion's last."""
    ledger = read_ledger(store)
    for damage in ledger.damages:
        warn_once(damage)
    if not ledger.lines:
        return [Promotion(**line) for line in earlier_promotions(store)]
    return [
        Promotion(
            line["at"],
            line.get("run", ""),
            line.get("val_dice"),
            line.get("replaced"),
            line.get("forced", False),
            line["by"],
        )
        for line in ledger.lines
        if line["event"] == PROMOTED
    ]


def champion(store: Path) -> str | None:
    """Return the key of today's champion; None if there has been no promotion."""
    log = promotions(store)
    return log[-1].key if log else None


def promote(run: StoredRun, force: bool) -> Promotion | None:
    """Make a finished run the champion; of two promotions at once, the later one counts.

    Returns:
        The promotion; None if the run is the champion already.

    Raises:
        PromotionRefused: it is not known to be as good as today's champion, and ``force`` is false.
        StoreError: it is not finished, does not say what its network is, or differs from its record.
    """
    store = run.folder.parent
    with changing(store) as changes:
        run = StoredRun.open(run.folder)
        if not run.finished:
            raise StoreError(f"run {run.key} is not finished")
        if damages := list(run.damages()):
            raise StoreError(f"run {run.key} can't be verified: {damages[0]}")
        before = champion(store)
        if before == run.key:
            return None
        doubt = _doubt(run, before)
        if doubt and not force:
            raise PromotionRefused(f"run {run.key} {doubt}; --force promotes it all the same")
        if not run.usable:
            raise StoreError(f"run {run.key} can't be used: nothing says what its network is")
        made = Promotion(now(), run.key, run.val_dice, before, bool(doubt), user())
        changes.append(PROMOTED, run=run.key, val_dice=made.val_dice, replaced=before, forced=made.forced)
    return made


def _doubt(run: StoredRun, before: str | None) -> str | None:
    """Return why a run is not known to be as good as today's champion; None if it is."""
    if before is None:
        return None
    try:
        today = run_of(run.folder.parent, before)
    except StoreError as error:
        return f"can't be compared with today's champion: {error}"
    if today is None:
        return "can't be compared with today's champion, which the store has lost"
    if edit := today.edit():
        return f"can't be compared with today's champion: {edit}"
    if run.val_dice is None or today.val_dice is None:
        return f"can't be compared with today's champion {today.key}: a validation Dice is not known"
    if run.manifest["data_sha256"] != today.manifest["data_sha256"]:
        return f"was validated on other photos than today's champion {today.key}"
    if run.validated_by != today.validated_by:
        return (
            f"was validated by another rule for the border ({run.validated_by}) than today's champion "
            f"{today.key} ({today.validated_by})"
        )
    if run.val_dice < today.val_dice:
        return (
            f"has a validation Dice of {score(run.val_dice)}, "
            f"less than today's champion {today.key} with {score(today.val_dice)}"
        )
    return None
