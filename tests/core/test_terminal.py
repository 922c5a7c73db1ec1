import pytest
from rich.console import Console

from petseg.core.terminal import cell, print_lines

HOSTILE = "a\x1b[31mb\x07\r\u202ec\u2066\u200f\u2028\x85\x9b\ud800\ne"


def test_a_line_is_one_line_of_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(HOSTILE, "next")
    print_lines(HOSTILE, err=True)
    out, err = capsys.readouterr()
    line = r"a\x1b[31mb\x07\r\u202ec\u2066\u200f\u2028\x85\x9b\ud800\ne"
    assert out == f"{line}\nnext\n"
    assert err == f"{line}\n"


def test_a_cell_of_a_table_is_neither_markup_nor_controls() -> None:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(cell(f"[bold]{HOSTILE}[/bold]"), soft_wrap=True)
    assert captured.get().strip().startswith(r"[bold]a\x1b[31mb")
    assert all(letter.isprintable() for letter in captured.get().rstrip("\n"))
