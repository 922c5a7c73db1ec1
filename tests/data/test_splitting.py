"""The split into training, validation and test: shares, breeds, folds, and groups that stay together."""

from collections import Counter

import numpy as np
import pytest

from petseg.data.listing import Listed
from petseg.data.splitting import check_groups, divided_groups, split_photos
from petseg.errors import DataError
from petseg.params import SplitParams

BREEDS = ("pug", "Bengal", "tabby")


def params(seed: int = 0, folds: int | None = None, fold: int | None = None) -> SplitParams:
    return SplitParams(seed=seed, test_fraction=0.2, val_fraction=0.15, folds=folds, fold=fold)


def animals(seed: int, n: int = 60, largest: int = 8) -> list[Listed]:
    """Photos of n animals, one to ``largest`` photos of each."""
    random = np.random.default_rng(seed)
    return [
        Listed(f"{animal}_{photo}", BREEDS[animal % 3], "cat", f"animal {animal}", "")
        for animal in range(n)
        for photo in range(random.integers(1, largest + 1))
    ]


def singles(n: int, part: str = "") -> list[Listed]:
    return [Listed(f"{i:03}", BREEDS[i % 3], "cat", "", part) for i in range(n)]


@pytest.mark.parametrize("seed", range(30))
def test_no_group_is_divided_and_shares_are_met(seed: int) -> None:
    photos = animals(seed)
    parts = split_photos(photos, params(seed))
    sides: dict[str, set[str]] = {}
    for photo, part in zip(photos, parts, strict=True):
        sides.setdefault(photo.group, set()).add(part)
    assert {len(found) for found in sides.values()} == {1}
    count = Counter(parts)
    rest = len(photos) - count["test"]
    assert abs(count["test"] - 0.2 * len(photos)) < 1
    assert abs(count["val"] - 0.15 * rest) < 1
    for breed in BREEDS:
        of_breed = [part for photo, part in zip(photos, parts, strict=True) if photo.breed == breed]
        assert abs(of_breed.count("test") - 0.2 * len(of_breed)) <= 8, "off by more than the largest group"
    assert parts == split_photos(photos, params(seed))


def test_another_seed_gives_another_split() -> None:
    photos = animals(0)
    drawn = {tuple(split_photos(photos, params(seed))) for seed in range(10)}
    assert len(drawn) == 10


@pytest.mark.parametrize("seed", range(10))
def test_folds_divide_the_groups_among_them(seed: int) -> None:
    photos = animals(seed)
    validated: list[str] = []
    tests = set()
    for fold in range(5):
        parts = split_photos(photos, params(seed, 5, fold))
        chosen = [photo for photo, part in zip(photos, parts, strict=True) if part == "val"]
        validated += sorted({photo.group for photo in chosen})
        tests.add(tuple(part == "test" for part in parts))
        assert abs(len(chosen) - (len(photos) - parts.count("test")) / 5) <= 8
    assert len(tests) == 1, "folds must not change the test part"
    tested = {photo.group for photo, test in zip(photos, next(iter(tests)), strict=True) if test}
    assert sorted(validated) == sorted({photo.group for photo in photos} - tested)


def test_shares_of_photos_without_groups_are_exact() -> None:
    photos = singles(200)
    parts = split_photos(photos, params())
    assert Counter(parts) == {"test": 40, "val": 24, "train": 136}
    for breed in BREEDS:
        of_breed = [part for photo, part in zip(photos, parts, strict=True) if photo.breed == breed]
        assert abs(of_breed.count("test") - 0.2 * len(of_breed)) <= 1


def test_lists_are_followed_and_only_other_photos_are_drawn() -> None:
    photos = singles(20, "test") + [Listed(f"t{i}", "pug", "dog", "", "trainval") for i in range(20)]
    assert Counter(split_photos(photos, params())) == {"test": 20, "val": 3, "train": 17}
    listed = [Listed(str(i), "pug", "dog", "", part) for i, part in enumerate(("train", "val", "test") * 3)]
    assert split_photos(listed, params()) == [photo.part for photo in listed]
    with pytest.raises(DataError, match=r"split\.folds: the lists say which photos are validation"):
        split_photos(listed, params(folds=2, fold=0))


@pytest.mark.parametrize("sizes", [(5, 5, 5), (1, 1, 1), (30, 2, 9), (2, 20, 3, 3, 4)])
def test_few_groups_still_give_three_parts(sizes: tuple[int, ...]) -> None:
    photos = [
        Listed(f"{group}_{photo}", "pug", "dog", f"g{group}", "")
        for group, size in enumerate(sizes)
        for photo in range(size)
    ]
    assert set(split_photos(photos, params())) == {"train", "val", "test"}


def test_more_folds_than_groups_are_refused() -> None:
    photos = [Listed(f"{i}", "pug", "dog", f"g{i % 4}", "") for i in range(40)]
    with pytest.raises(DataError, match=r"5 folds can't be made of 3 groups"):
        split_photos(photos, params(folds=5, fold=0))


def test_a_group_has_the_breed_of_most_of_its_photos() -> None:
    photos = [
        Listed(f"{i}_{j}", "pug" if j else "odd", "dog", f"g{i}", "") for i in range(40) for j in range(3)
    ]
    photos += [Listed(f"x{i}", "Bengal", "cat", f"x{i}", "") for i in range(40)]
    parts = split_photos(photos, params())
    pugs = [part for photo, part in zip(photos, parts, strict=True) if photo.group[0] == "g"]
    assert abs(pugs.count("test") - 24) <= 3


def test_lists_that_divide_a_group_are_named() -> None:
    photos = [
        Listed("a", "pug", "dog", "home", "test"),
        Listed("b", "pug", "dog", "home", "trainval"),
        Listed("c", "pug", "dog", "", "test"),
        Listed("d", "pug", "dog", "", "trainval"),
        *(Listed(f"e{part}", "pug", "dog", "shelter", part) for part in ("trainval", "test", "test")),
    ]
    assert {group: (one.name, other.name) for group, (one, other) in divided_groups(photos).items()} == {
        "home": ("a", "b"), "shelter": ("etrainval", "etest")
    }  # fmt: skip
    with pytest.raises(DataError, match=r"group home: .* a is in test, b in trainval \(and 1 more groups\)"):
        check_groups(photos)
    check_groups(photos[2:4])
