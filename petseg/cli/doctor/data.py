"""``petseg doctor --data``: checks a data set before the pipeline is run on it."""

import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from petseg.cli.output import Answer
from petseg.cli.showing import check_picture, save_figure
from petseg.core.formats import counted
from petseg.core.project import expanded, main_root
from petseg.core.terminal import cell, print_lines
from petseg.data.encodings import ENCODINGS
from petseg.data.images import BACKGROUND, BORDER, PET
from petseg.data.inspected import is_remote, open_source
from petseg.data.inspection import (
    VERDICTS,
    Inspection,
    SheetPair,
    Suspicion,
    Verdict,
    inspect,
)
from petseg.data.listing import UNKNOWN
from petseg.data.own_folder import check_archives_encoding
from petseg.errors import UsageError
from petseg.params import load_params
from petseg.pipeline.dvcfiles import locked_param, stage_paths

_REASONS, _NAMES = 30, 3  # the most reasons that are printed, and the most names for each
_VALUES = 8  # the most mask values that are printed
_BAR = 32  # characters of the longest bar
_CAPTION = 24  # characters of a caption
_MEANINGS = {PET: "pet", BACKGROUND: "background", BORDER: "border"}


def look_at_data(source: str | None, masks: str | None, sheet: Path | None) -> Answer:
    """Check a data set, and write nothing but the sheet. The exit code is 1 if something is suspicious.

    Args:
        source: a folder, a CSV of pairs, or sample; None for data.source of params.yaml.
        masks: how masks are encoded; None for data.masks of params.yaml.
        sheet: the picture of some pairs to write; None if no picture is wanted.

    Raises:
        PetsegError: the data set can't be checked.
    """
    if sheet is not None:
        check_picture("--sheet", sheet)
    root = main_root()
    params = load_params(root / "params.yaml")
    path = stage_paths(root, "download")
    encoding = next((name for name in ENCODINGS if name == (masks or params.data.masks)), None)
    if encoding is None:
        raise UsageError(f"--masks {masks}: must be one of {', '.join(ENCODINGS)}")
    place = params.data.source
    if source is not None:
        named = source == "sample" or is_remote(source)
        place = source if named else str(Path.cwd() / expanded(source))
    elif is_remote(place) and locked_param("download", "data.source", root) == place:
        place = str(path["archives"])  # the files that were fetched from the URL
    opened = open_source(place, encoding, path["sample"], root)
    if source is None and opened.masks != encoding:
        check_archives_encoding(place, encoding)
    seen = inspect(opened, params.data.image_size, params.split)
    drawn = sheet if seen.sheet else None
    if drawn is not None:
        _draw(seen.sheet, drawn)
    facts = _facts(seen) | {"sheet": drawn and str(drawn)}
    return Answer(facts, lambda: _print(seen, drawn, params.data.max_rejected), 1 if seen.suspicions else 0)


def _print(seen: Inspection, sheet: Path | None, max_rejected: float) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(_overview(seen))
    console.print(_bars("value in the masks", "pixels", _values(seen)))
    console.print(_bars("share of a photo that is pet", "photos", _coverages(seen)))
    if seen.suspicions:
        console.print(_suspicious(seen.suspicions))
    if sheet is not None:
        print_lines(f"sheet: {sheet}")
    print_lines(_verdict(seen, max_rejected))


def _overview(seen: Inspection) -> Table:
    source = seen.source
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    drawn = f" ({' and '.join(seen.drawn)} drawn by split)" if seen.drawn else " (by lists)"
    rows = [
        ("source", f"{source.where}: {source.kind}"),
        (
            "masks",
            ", ".join(f"{value} {_MEANINGS[meaning]}" for value, meaning in ENCODINGS[source.masks].items()),
        ),
        ("found", f"{seen.photos:,} photos, {seen.masks:,} masks, {seen.pairs:,} pairs that can be used"),
        ("parts", ", ".join(f"{part} {n:,}" for part, n in seen.parts.items()) + drawn),
        ("groups", _counted(seen.groups, "photos")),
        ("labels", _counted(seen.breeds, "photos")),
        ("species", ", ".join(f"{name} {n:,}" for name, n in seen.species.most_common(5))),
    ]
    if seen.sizes:
        rows += [
            (name, "min {:{form}}, median {:{form}}, max {:{form}}".format(*_spread(values), form=form))
            for name, (values, form) in _sizes(seen).items()
        ]
    if seen.ignored:
        rows.append(("ignored", "; ".join(f"{why}: {n:,}" for why, n in seen.ignored.most_common(4))))
    for name, text in rows:
        table.add_row(name, cell(text))
    return table


def _sizes(seen: Inspection) -> dict[str, tuple[list[float], str]]:
    """Return the photos' widths, heights and aspect ratios, each with its number format."""
    widths, heights = ([float(size[i]) for size in seen.sizes] for i in (0, 1))
    aspects = [width / height for width, height in seen.sizes]
    return {
        "width, px": (widths, ",.0f"),
        "height, px": (heights, ",.0f"),
        "width / height": (aspects, ".2f"),
    }


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def _counted(counts: Counter[str], what: str) -> str:
    if not counts.keys() - {UNKNOWN}:
        return "none given"
    (largest, n), *_ = counts.most_common(1)
    return f"{len(counts):,}, the largest {largest} with {n:,} {what}"


def _values(seen: Inspection) -> dict[str, int]:
    """Return the number of pixels for each of the most frequent mask values, with the value's meaning."""
    meanings = {value: _MEANINGS[meaning] for value, meaning in ENCODINGS[seen.source.masks].items()}
    most = sorted(value for value, _ in seen.values.most_common(_VALUES))
    bars = {f"{value} {meanings.get(value, '(not of this encoding)')}": seen.values[value] for value in most}
    if rest := len(seen.values) - len(most):
        bars[counted(rest, "other")] = seen.values.total() - sum(bars.values())
    return bars


def _coverages(seen: Inspection) -> dict[str, int]:
    tenths = Counter(min(9, int(10 * coverage)) for coverage in seen.coverages)
    return {f"{10 * tenth:3} to {10 * tenth + 10:3} %": tenths[tenth] for tenth in range(10)}


def _bars(name: str, what: str, counts: dict[str, int]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(name, no_wrap=True)
    table.add_column("")
    table.add_column(what, justify="right")
    table.add_column("share", justify="right")
    total, most = sum(counts.values()), max(counts.values(), default=0)
    for label, n in counts.items():
        bar = "█" * round(_BAR * n / most) if most else ""
        table.add_row(
            cell(label), bar or ("▏" if n else ""), f"{n:,}", f"{100 * n / total:.1f} %" if total else ""
        )
    return table


def _suspicious(suspicions: Sequence[Suspicion]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("suspicious", overflow="fold")
    table.add_column("")
    table.add_column("why", overflow="fold")
    names: dict[tuple[Verdict, str], list[str]] = {}
    for suspicion in suspicions:
        names.setdefault((suspicion.verdict, suspicion.reason), []).append(suspicion.name)
    for (verdict, reason), alike in list(names.items())[:_REASONS]:
        more = f" and {len(alike) - _NAMES:,} more" if len(alike) > _NAMES else ""
        colour = "yellow" if verdict == "look" else "red"
        coloured = f"[{colour}]{verdict}[/{colour}]"
        table.add_row(cell(", ".join(alike[:_NAMES]) + more), coloured, cell(reason))
    if len(names) > _REASONS:
        table.add_row(f"and {counted(len(names) - _REASONS, 'more reason')}", "", "--json has all")
    return table


def _verdict(seen: Inspection, max_rejected: float) -> str:
    verdicts = Counter(suspicion.verdict for suspicion in seen.suspicions)
    total, refused = seen.pairs + seen.refused, seen.refused
    too_many = (
        f", more than data.max_rejected ({max_rejected:g}) allows" if refused > max_rejected * total else ""
    )
    texts: dict[Verdict, str] = {
        "stops": "preprocess would stop, see above",
        "refused": f"preprocess would refuse {refused:,} of {total:,} photos{too_many}",
        "look": f"{verdicts['look']:,} to look at",
    }
    return "; ".join(texts[verdict] for verdict in VERDICTS if verdicts[verdict]) or "nothing suspicious"


def _facts(seen: Inspection) -> dict[str, Any]:
    return {
        "source": seen.source.where,
        "kind": seen.source.kind,
        "masks_are": seen.source.masks,
        "photos": seen.photos,
        "masks": seen.masks,
        "pairs": seen.pairs,
        "parts": seen.parts,
        "parts_drawn": seen.drawn,
        "groups": seen.groups,
        "labels": seen.breeds,
        "species": seen.species,
        "sizes": {
            name: dict(zip(("min", "median", "max"), _spread(values), strict=True))
            for name, (values, _) in _sizes(seen).items()
            if values
        },
        "mask_values": {str(value): n for value, n in sorted(seen.values.items())},
        "coverage": _coverages(seen),
        "suspicious": [asdict(suspicion) for suspicion in seen.suspicions],
        "ignored": seen.ignored,
    }


def _draw(pairs: Sequence[SheetPair], path: Path) -> None:
    from petseg.report import mask_figures  # imported here: only the sheet needs matplotlib and torch

    captions = [f"{_short(pair.name)}, {100 * pair.coverage:.0f} % pet" for pair in pairs]
    figure = mask_figures.data_sheet(
        [pair.photo for pair in pairs],
        [pair.trimap for pair in pairs],
        captions,
        [pair.reason for pair in pairs],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may be in a script that the font lacks
        save_figure(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= _CAPTION else f"{name[: _CAPTION - 1]}…"
