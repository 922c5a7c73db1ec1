"""Arrange the scores of metrics/test.json as rows of a table, for the card, the report and the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from petseg.params import Boundary, Edge

MASKS: dict[Edge, str] = {"whole": "the whole pet", "tight": "the pet within its border"}
RULES: dict[Boundary, str] = {
    "foreground": "foreground (the border counts as pet)",
    "background": "background (the border counts as background)",
    "ignore": "ignore (the border does not count)",
}
_SIZES = {"": "at the packed size", "own_resolution": "at the photos' own size"}
_BLIND = {"mean_mask": "the mean training mask, for every photo", "all_foreground": "every pixel is pet"}


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one kind of mask under one boundary rule.

    Attributes:
        name: what is scored, or the rule.
        mask: which of the network's masks is scored; empty if there is only one.
        scores: the scores, by their names in metrics/test.json.
        headline: whether these are the headline scores, to whose masks and rule the other views belong.
    """

    name: str
    mask: str
    scores: Mapping[str, Any]
    headline: bool = False


@dataclass(frozen=True)
class ScoreRows:
    """Every score that metrics/test.json has.

    Attributes:
        rules: for the model's masks at the packed size, one row per boundary rule, by the rule's name.
        sizes: by the rule of the headline, those masks as they are and cleaned, at both sizes.
        blind: by the rule of the headline, baselines that never look at the photo.
    """

    rules: dict[str, ScoreRow]
    sizes: list[ScoreRow]
    blind: list[ScoreRow]

    @classmethod
    def of(cls, headlines: Mapping[str, Any]) -> "ScoreRows":
        """Return the rows for the scores that exist: old ones have fewer rules, and no cleaned masks."""
        boundary, answers = headlines.get("boundary"), headlines.get("answers", {})
        mask = MASKS.get(answers.get(boundary), "")
        rules: dict[str, ScoreRow] = {
            rule: ScoreRow(words, MASKS.get(answers.get(rule), ""), scores, rule == boundary)
            for rule, words in RULES.items()
            if (scores := headlines if rule == boundary else headlines.get(f"boundary_{rule}"))
        }
        rules = rules or {"unknown": ScoreRow("by an unknown rule for the border", mask, headlines, True)}
        blind = [ScoreRow(words, "", headlines[name]) for name, words in _BLIND.items() if name in headlines]
        return cls(rules, _sizes(headlines, mask), blind)


def title(headlines: Mapping[str, Any]) -> str:
    """Return in words the masks and the boundary rule of the headline scores."""
    boundary = headlines.get("boundary", "unknown")
    edge = headlines.get("answers", {}).get(boundary)
    if edge is None:
        return f"masks scored by the {boundary} rule"
    return f"masks of {MASKS[edge]}, scored by the {boundary} rule"


def _sizes(headlines: Mapping[str, Any], mask: str) -> list[ScoreRow]:
    if "cleaned_masks" not in headlines:
        own = headlines.get("own_resolution")
        return [ScoreRow(_SIZES["own_resolution"], mask, own)] if own else []
    rows = []
    for size, where in _SIZES.items():
        for way, words in (("as_is", "as they are"), ("cleaned", "cleaned")):
            is_chosen = (way == "cleaned") == headlines["cleaned_masks"]
            name = size if is_chosen else "_".join(filter(None, (size, way)))
            if scores := headlines.get(name) if name else headlines:
                rows.append(ScoreRow(f"{words}, {where}", mask, scores, headline=not name))
    return rows
