"""Write the model card of a run in Markdown: its origin, its scores, its limits, and how to get it back.

Source: Mitchell et al. 2019 (arXiv:1810.03993), as far as the record has the facts.
"""

import csv
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import written_atomically
from petseg.core.formats import duration, interval, score
from petseg.core.textfiles import printable
from petseg.evaluation.outputs import BREEDS
from petseg.store.additions import Evaluation
from petseg.store.layout import ABOUT, CARD, WEIGHTS
from petseg.store.run import StoredRun
from petseg.store.score_rows import MASKS, ScoreRows, title

WEAKEST = 5  # number of breeds that are named
ENOUGH = 5  # breeds with fewer test photos are left out, if others have as many
_ACTIVE = re.compile(r"[\\|<>\[\]&]")  # characters that begin HTML, a link, an entity or a cell
_PUBLISHED = ("sample", "oxford")
LIMITS = (
    "It has seen cats and dogs, one in each photo, mostly in the middle and well lit; other animals, several "
    "pets, and photos without one are beyond what was measured.",
    "A photo is squeezed into a small square before the network sees it, so whiskers, tails and leashes are "
    "lost, and a mask at the photo's own size is as smooth as that square allows.",
    "People drew the masks with a strip of unsure pixels around each pet; the rule for it moves every score.",
    "Scores are of one training; another seed gives a little more or less.",
)


def write_card(run: StoredRun, path: Path | None = None) -> None:
    """Write a finished run's card, from all facts that are known now, into its folder or to another path."""
    with written_atomically(path or run.folder / CARD) as file:
        file.write(card(run).encode())


def card(run: StoredRun) -> str:
    """Return the card of a finished run; a damaged evaluation is named on stderr and left out.

    Raises:
        BrokenRecord: its history does not have the required form.
        OSError: a file of it can't be read.
    """
    evaluation, sha256 = run.proved_evaluation(), run.manifest.get("tensors_sha256", "unknown")
    parts = [
        f"# {_cell(run.network)}: run {run.key}",
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
    """Return when, where, from which photos and by which code a run was trained; hashes are in backticks."""
    manifest = run.manifest
    if run.adopted:
        origin = manifest["adopted"]
        return [("adopted", f"{manifest['created']}, from {origin['file']}"), ("known of it", origin["note"])]
    best, git = manifest["best"], manifest["git"]
    device, cpu, threads, torch, python = (
        manifest["environment"].get(name, "unknown")
        for name in ("device", "cpu_capability", "threads", "torch", "python")
    )
    photos, source = manifest.get("photos", {}), run.data.get("data.source")
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
    headlines = evaluation.headlines
    found = ScoreRows.of(headlines)
    for row in found.rules.values():
        name = f"test, {row.name}"
        rows.append((f"**{name}**" if row.headline else name, row.mask, *_three(row.scores)))
    rows += [(row.name, row.mask, *_three(row.scores)) for row in found.sizes if not row.headline]
    rows += [(f"*{row.name}*", row.mask, *_three(row.scores)) for row in found.blind]
    words = f"""Means over {headlines.get("photos", "unknown")} test photos. Bold: the headline,
        {title(headlines)}; the lines below the rules are by its rule too. {_thresholds(headlines)}
        {_cleaned(headlines)} Italic: baselines that never look at the photo."""
    return f"{_table(head, rows)}\n\n{textwrap.fill(' '.join(words.split()), 106)}"


def _thresholds(headlines: Mapping[str, Any]) -> str:
    if "thresholds" not in headlines:
        return f"Pet is what has a probability of {headlines['threshold']:g} or more."
    limits = ", ".join(f"{limit:g} for {MASKS[edge]}" for edge, limit in headlines["thresholds"].items())
    return f"A mask holds what has at least this probability: {limits}."


def _cleaned(headlines: Mapping[str, Any]) -> str:
    if "cleaned_masks" not in headlines:
        return ""
    done = "were cleaned" if headlines["cleaned_masks"] else "are as the network gave them"
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
        rows = list(csv.DictReader(file))  # the weakest comes first
    shown = [row for row in rows if int(row["photos"]) >= ENOUGH] or rows
    cells = ((row["breed"].replace("_", " "), row["photos"], _dice(row)) for row in shown[:WEAKEST])
    return _table(("breed", "test photos", "Dice (95 % interval)"), cells)


def ways_back(run: StoredRun) -> list[tuple[str, str]]:
    """Return the commands of ``petseg runs`` that restore, verify or reproduce a run, and what each does."""
    commands = [("restore", "these weights, byte for byte"), ("verify", "is every file as recorded?")]
    if not run.adopted:
        commands.append(("reproduce", "train it again from its commit, and compare bit for bit"))
    return commands


def _way_back(run: StoredRun) -> str:
    commands = ways_back(run)
    width = max(len(command) for command, _ in commands)
    lines = (f"petseg runs {command:<{width}} {run.key}   # {why}" for command, why in commands)
    return "\n".join(["```sh", *lines, "```"])


def _cell(text: str) -> str:
    """Return untrusted text so that it can't begin a line, a cell, HTML or a link."""
    return _ACTIVE.sub(r"\\\g<0>", printable(text))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(map(_cell, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
