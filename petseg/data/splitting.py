"""Which photos are for training, for validation and for test: as lists say, or as a seed draws.

What is dealt out are groups, and a photo without one is a group of its own. Shuffled, the groups are laid
out breed after breed. Taken at even distances along that line, a part has its exact share of all photos,
and of each breed its share, to within one group.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from petseg.data.listing import Listed
from petseg.errors import DataError
from petseg.params import SplitParams

_TEST_STREAM = 1  # apart from the draw of validation, which was there before it

Rows = list[int]


def split_photos(photos: Sequence[Listed], split: SplitParams) -> list[str]:
    """Return train, val or test for each photo.

    Where no list says what is test, ``test_fraction`` of the photos is. Of what is not test, the photos of
    one fold are validation, or ``val_fraction`` of them, unless lists have them.

    Args:
        photos: those that can be used.
        split: shares and folds.

    Raises:
        DataError: folds are asked for where lists say what is validation, or there are fewer groups than
            folds.
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
    """Check that the lists leave each group on one side.

    Raises:
        DataError: they do not, so group and list can't both be followed.
    """
    if broken := divided_groups(photos):
        group, (one, other) = next(iter(broken.items()))
        more = f" (and {len(broken) - 1} more groups)" if len(broken) > 1 else ""
        raise DataError(
            f"group {group}: by the lists {one.name} is in {one.part}, {other.name} in {other.part}{more}; "
            "all photos of a group must be in one part: change the lists, or leave the group out"
        )


def divided_groups(photos: Sequence[Listed]) -> dict[str, tuple[Listed, Listed]]:
    """Return the groups that lists divide, each with two photos of different parts."""
    first: dict[str, Listed] = {}
    broken: dict[str, tuple[Listed, Listed]] = {}
    for photo in photos:
        if photo.group and first.setdefault(photo.group, photo).part != photo.part:
            broken.setdefault(photo.group, (first[photo.group], photo))
    return broken


def _line(photos: Sequence[Listed], rows: Rows, seed: int | tuple[int, int]) -> list[Rows]:
    """Lay out the groups that some photos form, shuffled within each breed, breed after breed."""
    members: dict[str | int, Rows] = {}
    for row in rows:
        members.setdefault(photos[row].group or row, []).append(row)
    groups = list(members.values())

    def breed(group: Rows) -> str:  # that of most of its photos
        counts = Counter(photos[row].breed for row in group)
        return min(counts, key=lambda name: (-counts[name], name))

    order = np.random.default_rng(seed).permutation(len(groups))
    return sorted((groups[place] for place in order), key=breed)


def _taken(line: list[Rows], fraction: float) -> list[Rows]:
    """Take groups at even distances along the line, so that they hold a share of all photos."""
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
    """Put single groups in or out, as long as that brings the number of photos closer to the wanted one."""
    while abs(excess := sizes[take].sum() - wanted) >= 1:
        after = np.abs(excess + np.where(take, -sizes, sizes))
        best = int(after.argmin())
        if after[best] >= abs(excess):
            return
        take[best] = not take[best]


def _folds(line: list[Rows], folds: int) -> list[list[Rows]]:
    """Deal the line out to the folds, each group to the one that has the fewest photos.

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
