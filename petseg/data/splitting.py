"""Split photos into training, validation and test, by lists or at random by a seed.

Whole groups are assigned to a part; a photo without a group is a group of its own. The groups are shuffled
and then lined up breed by breed. A part takes groups at even distances along this line, so that it has its
exact share of all photos, and its share of each breed, to within one group.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from petseg.data.listing import Listed
from petseg.errors import DataError
from petseg.params import SplitParams

_TEST_STREAM = 1  # separate from the draw of validation photos, so that it does not change that draw

Rows = list[int]


def split_photos(photos: Sequence[Listed], split: SplitParams) -> list[str]:
    """Return train, val or test for each photo.

    If no list names test photos, ``test_fraction`` of the photos become test. Of the others, one fold or
    ``val_fraction`` of the photos become validation, unless lists name the validation photos.

    Args:
        photos: the photos that can be used.
        split: the fractions and folds.

    Raises:
        DataError: split.folds is set although lists name the validation photos, or there are fewer groups
            than folds.
    """
    parts = [photo.part for photo in photos]
    undecided = [row for row, part in enumerate(parts) if part == ""]
    for group in _taken(_line(photos, undecided, (split.seed, _TEST_STREAM)), split.test_fraction):
        for row in group:
            parts[row] = "test"
    rest = [row for row, part in enumerate(parts) if part in ("", "trainval")]
    if split.folds is not None and len(rest) < len(parts) - parts.count("test"):
        raise DataError(
            "split.folds: the lists say which photos are validation, so there are no folds to cut; "
            "set split.folds and split.fold to null"
        )
    line = _line(photos, rest, split.seed)
    if split.folds is not None and split.fold is not None:
        validation = _folds(line, split.folds)[split.fold]
    else:
        validation = _taken(line, split.val_fraction)
    for row in rest:
        parts[row] = "train"
    for group in validation:
        for row in group:
            parts[row] = "val"
    return parts


def check_groups(photos: Sequence[Listed]) -> None:
    """Check that the lists put all photos of a group into one part.

    Raises:
        DataError: they do not, so both group and list can't be followed.
    """
    if broken := divided_groups(photos):
        group, (one, other) = next(iter(broken.items()))
        more = f" (and {len(broken) - 1} more groups)" if len(broken) > 1 else ""
        raise DataError(
            f"group {group}: by the lists {one.name} is in {one.part}, {other.name} in {other.part}{more}; "
            "all photos of a group must be in one part: change the lists, or leave the group out"
        )


def divided_groups(photos: Sequence[Listed]) -> dict[str, tuple[Listed, Listed]]:
    """Return the groups that the lists divide, each with two photos from different parts."""
    first: dict[str, Listed] = {}
    broken: dict[str, tuple[Listed, Listed]] = {}
    for photo in photos:
        if photo.group and first.setdefault(photo.group, photo).part != photo.part:
            broken.setdefault(photo.group, (first[photo.group], photo))
    return broken


def _line(photos: Sequence[Listed], rows: Rows, seed: int | tuple[int, int]) -> list[Rows]:
    """Line up the groups of these photos breed by breed, shuffled within each breed."""
    members: dict[str | int, Rows] = {}
    for row in rows:
        members.setdefault(photos[row].group or row, []).append(row)
    groups = list(members.values())

    def breed(group: Rows) -> str:  # the breed of most of its photos
        counts = Counter(photos[row].breed for row in group)
        return min(counts, key=lambda name: (-counts[name], name))

    order = np.random.default_rng(seed).permutation(len(groups))
    return sorted((groups[place] for place in order), key=breed)


def _taken(line: list[Rows], fraction: float) -> list[Rows]:
    """Take groups at even distances along the line, so that they hold this fraction of the photos."""
    sizes = np.array([len(group) for group in line], dtype=np.int64)
    take = np.zeros(len(line), bool)
    passed = taken = 0
    for place, size in enumerate(sizes):
        passed += size
        if passed * fraction >= taken + (size + 1) / 2:
            take[place] = True
            taken += size
    _come_closer(take, sizes, passed * fraction)
    if not take.any() and len(line) > 1:
        take[sizes.argmin()] = True
    return [group for group, taken_too in zip(line, take, strict=True) if taken_too]


def _come_closer(take: NDArray[np.bool_], sizes: NDArray[np.int64], wanted: float) -> None:
    """Add or remove single groups, as long as that brings the number of photos closer to the wanted one."""
    while abs(excess := sizes[take].sum() - wanted) >= 1:
        after = np.abs(excess + np.where(take, -sizes, sizes))
        best = int(after.argmin())
        if after[best] >= abs(excess):
            return
        take[best] = not take[best]


def _folds(line: list[Rows], folds: int) -> list[list[Rows]]:
    """Assign each group of the line to the fold that has the fewest photos.

    Raises:
        DataError: there are fewer groups than folds.
    """
    if len(line) < folds:
        raise DataError(f"split.folds: {folds} folds can't be made of {len(line)} groups of photos")
    dealt: list[list[Rows]] = [[] for _ in range(folds)]
    sizes = [0] * folds
    for group in line:
        smallest = sizes.index(min(sizes))
        dealt[smallest].append(group)
        sizes[smallest] += len(group)
    return dealt
