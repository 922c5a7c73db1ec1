"""Colours for figures and pictures, by Okabe and Ito: people with any colour vision can distinguish them."""

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7")


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of ``#RRGGBB``, from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
