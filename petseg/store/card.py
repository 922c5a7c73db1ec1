"""The model card of a run: what it is, what it can and can't do, and the way back to it, in Markdown.

Source: Mitchell et al. 2019 (arXiv:1810.03993), as far as the record knows.
"""

import csv
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from petseg.core.files import written_atomically
from petseg.core.formats import duration, interval, score
from petseg.evaluation.outputs import BREEDS
from petseg.params import Boundary, Edge
from petseg.store.additions import Evaluation
from petseg.store.layout import ABOUT, CARD, WEIGHTS
from petseg.store.run import StoredRun

WEAKEST = 5  # breeds that are named,
ENOUGH = 5  # of those with so many test photos, where there are such
_PUBLISHED = ("sample", "oxford")
MASKS: dict[Edge, str] = {"whole": "the whole pet", "tight": "the pet within its border"}
RULES: dict[Boundary, str] = {
    "foreground": "foreground (the border counts as pet)",
    "background": "background (the border counts as background)",
    "ignore": "ignore (the border does not count)",
}
_SIZES = {"": "at the packed size", "own_resolution": "at the photos' own size"}
_BLIND = {"mean_mask": "the mean training mask, for every photo", "all_foreground": "every pixel is pet"}
LIMITS = (
    "It has seen cats and dogs, one in each photo, mostly in the middle and well lit; other animals, several "
    "pets, and photos without one are beyond what was measured.",
    "A photo is squeezed into a small square before the network sees it, so whiskers, tails and leashes are "
    "lost, and a mask at the photo's own size is as smooth as that square allows.",
    "People drew the masks with a strip of unsure pixels around each pet; the rule for it moves every score.",
    "Scores are of one training; another seed gives a little more or less.",
)


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one answer under one rule for the border.

    Attributes:
        name: what is scored, or by which rule.
        mask: which of the network's masks answered; empty where there is but one.
        scores: by their names in metrics/test.json.
        headline: whether the other views are of these masks and this rule.
    """

    name: str
    mask: str
    scores: Mapping[str, Any]
    headline: bool = False


@dataclass(frozen=True)
class ScoreRows:
    """Every score that metrics/test.json has.

    Attributes:
        rules: of the model's masks at the packed size, a row for each rule for the border, by its name.
        sizes: by the headline's rule, those masks as they are and cleaned, at both sizes.
        blind: by the headline's rule, answers that never look at the photo.
    """

    rules: dict[str, ScoreRow]
    sizes: list[ScoreRow]
    blind: list[ScoreRow]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "ScoreRows":
        """Return what there is; a network with one output was scored by one rule, and cleaned nowhere."""
        boundary, answers = told.get("boundary"), told.get("answers", {})
        mask = MASKS.get(answers.get(boundary), "")
        rules: dict[str, ScoreRow] = {
            rule: ScoreRow(words, MASKS.get(answers.get(rule), ""), scores, rule == boundary)
            for rule, words in RULES.items()
            if (scores := told if rule == boundary else told.get(f"boundary_{rule}"))
        }
        rules = rules or {"unknown": ScoreRow("by an unknown rule for the border", mask, told, True)}
        blind = [ScoreRow(words, "", told[name]) for name, words in _BLIND.items() if name in told]
        return cls(rules, _sizes(told, mask), blind)


def title(told: Mapping[str, Any]) -> str:
    """Say of which masks, by which rule for the border, the headline scores are."""
    boundary = told.get("boundary", "unknown")
    edge = told.get("answers", {}).get(boundary)
    if edge is None:
        return f"masks scored by the {boundary} rule"
    return f"masks of {MASKS[edge]}, scored by the {boundary} rule"


def _sizes(told: Mapping[str, Any], mask: str) -> list[ScoreRow]:
    if "cleaned_masks" not in told:
        own = told.get("own_resolution")
        return [ScoreRow(_SIZES["own_resolution"], mask, own)] if own else []
    rows = []
    for size, where in _SIZES.items():
        for way, words in (("as_is", "as they are"), ("cleaned", "cleaned")):
            asked = (way == "cleaned") == told["cleaned_masks"]
            name = size if asked else "_".join(filter(None, (size, way)))
            if scores := told.get(name) if name else told:
                rows.append(ScoreRow(f"{words}, {where}", mask, scores, headline=not name))
    return rows


def write_card(run: StoredRun) -> None:
    """Write a finished run's card into its folder, from all that is known of it now."""
    with written_atomically(run.folder / CARD) as file:
        file.write(card(run).encode())


def card(run: StoredRun) -> str:
    """Return the card of a finished run; an evaluation that is not as recorded is named, and left out.

    Raises:
        BrokenRecord: its history is not what it must be.
        OSError: a file of it can't be read.
    """
    evaluation, sha256 = run.proved_evaluation(), run.manifest.get("tensors_sha256", "unknown")
    parts = [
        f"# {run.network}: run {run.key}",
        "A network that says of each pixel of a photo whether it is pet.",
        _table(("", ""), facts(run)),
        "## Scores",
        _scores(run, evaluation),
        "## Weakest breeds" if evaluation else "",
        _weakest(evaluation) if evaluation else "",
        "## Limits",
        "\n".join(textwrap.fill(f"- {limit}", 106, subsequent_indent="  ") for limit in LIMITS),
        "## The way back",
        f"Weights: `{WEIGHTS}`, described by `{ABOUT}`; sha256 of the tensors\n`{sha256}`.",
        _way_back(run),
        "## Params",
        _table(("param", "value"), ((f"`{name}`", f"{value}") for name, value in run.params.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(run: StoredRun) -> list[tuple[str, str]]:
    """Say when, where, from what and by which code a finished run was trained; hashes in backticks."""
    manifest = run.manifest
    if run.adopted:
        origin = manifest["adopted"]
        return [("adopted", f"{manifest['created']}, from {origin['file']}"), ("known of it", origin["note"])]
    best, git = manifest["best"], manifest["git"]
    device, cpu, threads, torch, python = (
        manifest["environment"].get(name, "unknown")
        for name in ("device", "cpu_capability", "threads", "torch", "python")
    )
    photos, source = manifest.get("photos", {}), manifest.get("data", {}).get("data.source")
    licence = "Oxford-IIIT Pet, CC BY-SA 4.0" if source in _PUBLISHED else "their licence is not recorded"
    counts = ", ".join(f"{count} to {use}" for use, count in photos.items())
    seconds = sum(row["elapsed_s"] for row in run.rows())
    return [
        ("trained", f"{manifest['created']}, {len(run.rows())} epochs in {duration(seconds)}"),
        ("kept", f"epoch {best['epoch']}, the best by validation Dice"),
        ("on", f"{device} ({cpu}), {threads} threads"),
        ("with", f"torch {torch}, Python {python}"),
        ("code", f"commit {git['commit']}" + (", changed: see changes.diff" if git["dirty"] else "")),
        ("photos", f"{counts}; data.source `{source}`, {licence}"),
        ("sha256 of the data", f"`{manifest['data_sha256']}`"),
    ]


def _scores(run: StoredRun, evaluation: Evaluation | None) -> str:
    head = ("", "mask", "Dice (95 % interval)", "IoU", "boundary F")
    rows: list[tuple[str, ...]] = []
    if run.val_dice is not None:
        both = "mean of both" if "val_dice_whole" in run.manifest.get("best", {}) else ""
        rows.append(("validation, which chose the epoch", both, f"{run.val_dice:.4f}", "", ""))
    if not evaluation:
        return f"{_table(head, rows)}\n\nNot yet scored on test photos: `dvc repro infer` does."
    told = evaluation.headlines
    found = ScoreRows.of(told)
    for row in found.rules.values():
        name = f"test, {row.name}"
        rows.append((f"**{name}**" if row.headline else name, row.mask, *_three(row.scores)))
    rows += [(row.name, row.mask, *_three(row.scores)) for row in found.sizes if not row.headline]
    rows += [(f"*{row.name}*", row.mask, *_three(row.scores)) for row in found.blind]
    words = f"""Means over {told.get("photos", "unknown")} test photos. Bold: the headline, {title(told)};
        the lines below the rules are by its rule too. {_thresholds(told)} {_cleaned(told)} Italic: answers
        that never look at the photo."""
    return f"{_table(head, rows)}\n\n{textwrap.fill(' '.join(words.split()), 106)}"


def _thresholds(told: Mapping[str, Any]) -> str:
    if "thresholds" not in told:
        return f"Pet is what has a probability of {told['threshold']:g} or more."
    limits = ", ".join(f"{limit:g} for {MASKS[edge]}" for edge, limit in told["thresholds"].items())
    return f"A mask holds what has at least this probability: {limits}."


def _cleaned(told: Mapping[str, Any]) -> str:
    if "cleaned_masks" not in told:
        return ""
    done = "were cleaned" if told["cleaned_masks"] else "are as the network gave them"
    return f"Headline masks {done}; cleaning takes out small islands and fills small holes."


def _three(scores: Mapping[str, Any]) -> tuple[str, str, str]:
    iou, edges = (score(scores.get(f"{name}_per_image")) or "undefined" for name in ("iou", "boundary_f"))
    return _dice(scores), iou, edges


def _dice(row: Mapping[str, Any]) -> str:
    """Return the Dice of a row of JSON or CSV, with its interval."""
    names = ("dice_per_image", "dice_per_image_low", "dice_per_image_high")
    dice, low, high = (float(row[name]) if row.get(name) not in (None, "") else None for name in names)
    return interval(dice, low, high) or "undefined"


def _weakest(evaluation: Evaluation) -> str:
    with (evaluation.folder / BREEDS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))  # which begins with the weakest
    told = [row for row in rows if int(row["photos"]) >= ENOUGH] or rows
    cells = ((row["breed"].replace("_", " "), row["photos"], _dice(row)) for row in told[:WEAKEST])
    return _table(("breed", "test photos", "Dice (95 % interval)"), cells)


def ways_back(run: StoredRun) -> list[tuple[str, str]]:
    """Return the commands of ``petseg runs`` that lead back to a run, and what each does."""
    commands = [("restore", "these weights, byte for byte"), ("verify", "is every file as recorded?")]
    if not run.adopted:
        commands.append(("reproduce", "train it again from its commit, and compare bit for bit"))
    return commands


def _way_back(run: StoredRun) -> str:
    commands = ways_back(run)
    width = max(len(command) for command, _ in commands)
    lines = (f"petseg runs {command:<{width}} {run.key}   # {why}" for command, why in commands)
    return "\n".join(["```sh", *lines, "```"])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
