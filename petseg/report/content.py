"""The content of the report page as plain values, without the gallery, which gets the room that is left."""

import math
from typing import Any

import numpy as np
import pandas as pd

from petseg.core.textfiles import without_nan
from petseg.evaluation.thresholds import calibration_error
from petseg.params import Edge
from petseg.report.notes import POOR, notes
from petseg.report.pictures import mask_uri, photo_uri
from petseg.report.results import Results
from petseg.store.card import LIMITS, facts, ways_back
from petseg.store.layout import HISTORY
from petseg.store.run import StoredRun
from petseg.store.score_rows import MASKS, ScoreRow, ScoreRows

MOST_EPOCHS = 100  # of the slider
HISTOGRAM_BINS = 20
_CURVES = ("epoch", "train_loss", "val_loss", "train_dice", "val_dice")
_OUTPUT_CURVES = {f"val_dice_{edge}": words for edge, words in MASKS.items()}


def content(results: Results, run: StoredRun | None) -> dict[str, Any]:
    """Return what the page shows, to be written as JSON.

    Args:
        results: the results of a training and its evaluation.
        run: the run that trained the model; None if the store does not have it.

    Raises:
        DamagedFile: the run's record was edited, or its history differs from the record.
    """
    best, scores = results.best, results.headlines
    return {
        "model": run.network if run else None,
        "run": results.run_key,
        "title": results.title,
        "boundary": scores["boundary"],
        "threshold": scores["threshold"],
        "other_thresholds": _other_thresholds(results),
        "photos": scores["photos"],
        "poor": POOR,
        **_scores(scores),
        "validation": {"dice": best["val_dice"], "epoch": int(best["epoch"]), "epochs": len(results.history)},
        "history": {name: results.history[name].tolist() for name in _CURVES},
        "output_curves": {
            words: results.history[name].tolist()
            for name, words in _OUTPUT_CURVES.items()
            if name in results.history
        },
        "evolution": _evolution(results),
        "breeds": _breeds(results),
        "histogram": _histogram(results.table["dice"]),
        "thresholds": results.thresholds.to_dict("list"),
        "calibration": _calibration(results.calibration),
        "confusion": {
            name: int(getattr(results.counts.total(), name).item()) for name in ("tp", "fn", "fp", "tn")
        },
        "notes": notes(results),
        "limits": LIMITS,
        **_record(results, run),
    }


def gallery_photo(results: Results, place: int) -> dict[str, Any]:
    """Return a test photo for the gallery."""
    row = results.table.loc[place]
    return {
        "name": row["name"],
        "breed": row["breed"],
        "dice": row["dice"],
        "iou": row["iou"],
        "image": photo_uri(results.arrays.images[results.rows[place]]),
        "truth": mask_uri(results.truths[place]),
        "predicted": mask_uri(results.masks[place]),
    }


def evenly(count: int, most: int) -> list[int]:
    """Return up to ``most`` indices below ``count``, evenly spread, with the first and the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _scores(headlines: dict[str, Any]) -> dict[str, Any]:
    """Return the intervals at the page's head, with the headline first, and the tables of all scores."""
    rows = ScoreRows.of(headlines)
    rule = f"by the {headlines['boundary']} rule"
    tables = {
        "By the rule for the border": list(rows.rules.values()),
        f"By size{' and cleaning' if len(rows.sizes) > 1 else ''}, {rule}": rows.sizes,
        f"Answers that ignore the photo, {rule}": rows.blind,
    }
    rules = [_row(row) | {"name": f"{rule} rule"} for rule, row in rows.rules.items()]
    return {
        "answers": [*sorted(rules, key=lambda row: not row["main"]), *map(_row, rows.blind)],
        "scores": [{"title": title, "rows": [_row(row) for row in each]} for title, each in tables.items()],
    }


def _row(row: ScoreRow) -> dict[str, Any]:
    names = {"": "dice", "_low": "low", "_high": "high"}
    scores = {name: row.scores[f"dice_per_image{end}"] for end, name in names.items()}
    more = {name: row.scores.get(f"{name}_per_image", math.nan) for name in ("iou", "boundary_f")}
    return {"name": row.name, "mask": row.mask, "main": row.headline} | scores | more


def _other_thresholds(results: Results) -> list[tuple[str, float]]:
    """Return the thresholds of the masks that are not shown, each with the name of its mask."""
    found: dict[Edge, float] = results.headlines.get("thresholds", {})
    return [(MASKS[edge], threshold) for edge, threshold in found.items() if edge != results.edge]


def _evolution(results: Results) -> dict[str, Any]:
    whole, best = results.evolution, int(results.best["epoch"])
    spread = {whole.epochs[place] for place in evenly(len(whole.epochs), MOST_EPOCHS)}
    shown = whole.at(sorted(spread | {best}))
    return {
        "epochs": shown.epochs,
        "photos": [
            {
                "name": name,
                "image": photo_uri(shown.images[k]),
                "truth": mask_uri(shown.truths[k]),
                "predicted": [mask_uri(mask) for mask in shown.masks[:, k]],
                "dice": shown.dices[:, k].tolist(),
            }
            for k, name in enumerate(shown.names)
        ],
    }


def _breeds(results: Results) -> list[dict[str, Any]]:
    names = {"dice_per_image": "dice", "dice_per_image_low": "low", "dice_per_image_high": "high"}
    table = results.breeds.rename(columns=names | {"breed": "name"})
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _histogram(dice: "pd.Series[float]") -> dict[str, Any]:
    counts, edges = np.histogram(dice.dropna(), bins=HISTOGRAM_BINS, range=(0, 1))
    return {
        "low": edges[:-1].round(3).tolist(),
        "high": edges[1:].round(3).tolist(),
        "photos": counts.tolist(),
        "mean": float(dice.mean()),
        "median": float(dice.median()),
    }


def _calibration(table: pd.DataFrame) -> dict[str, Any]:
    share = (table["pixels"] / max(1, int(table["pixels"].sum()))).tolist()
    columns = {str(name): values for name, values in table.to_dict("list").items()}
    return columns | {"share": share, "error": calibration_error(table)}


def _record(results: Results, run: StoredRun | None) -> dict[str, Any]:
    """Return params and facts about how the model was made, and commands to get it back."""
    if run is None:
        return {"params": [], "facts": [], "ways_back": []}
    run.check_whole(HISTORY)
    shown = without_nan(results.headlines)
    found = (each for each in run.evaluations if each.headlines == shown and not each.edit())
    settings: dict[str, Any] = next((each.manifest.get("settings", {}) for each in found), {})
    code = run.manifest.get("code_sha256")
    return {
        "params": [(name, _value(value)) for name, value in {**run.params, **settings}.items()],
        "facts": [*facts(run), *([("sha256 of the code", f"`{code}`")] if code else [])],
        "ways_back": [(f"petseg runs {command} {run.key}", why) for command, why in ways_back(run)],
    }


def _value(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
