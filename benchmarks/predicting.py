"""The speed of ``petseg predict`` on 500 photos: ``python -m benchmarks.predicting`` prints a table.

The photos are the embedded ones, at 500x375. The model is the one that ``make repro`` trained.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

from PIL import Image

from benchmarks.__main__ import ROOT
from benchmarks.serving import SIZE
from petseg.core.files import sha256_file
from petseg.predict.png import write_png
from tests.support.pets import sample_photos

PHOTOS = 500
MANY = 2_500


def main() -> None:
    """Print the table."""
    print("| what | measured | wanted | how |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder) / "photos", PHOTOS)
        first, peak_mb = predict(photos, Path(folder) / "first")
        row(
            f"`petseg predict`, {SIZE[0]}x{SIZE[1]} photos",
            f"{first['done'] / first['seconds']:.1f} photos/s",
            "25",
            f"{PHOTOS} photos, threshold {first['threshold']:g}, by {Path(first['model']).name}",
        )
        row("its peak memory", f"{peak_mb:.0f} MB", "1000 MB", "of the process")
        row(*against_pillow(Path(first["out"]) / "cutouts"))
        ways: dict[str, tuple[str, ...]] = {
            "again": (),
            "one": ("--batch-size", "1"),
            "many": ("--batch-size", "32"),
        }
        for name, options in ways.items():
            predict(photos, Path(folder) / name, *options)
        hashes = [sha256_of(Path(folder) / name) for name in ("first", *ways)]
        differing = sum(each != hashes[0] for each in hashes)
        how = "once more; `--batch-size 1`; `--batch-size 32`"
        row("runs with other bytes", f"{differing} of 3", "0", how)
        small = write_photos(Path(folder) / "more", MANY)
        _, peak_mb = predict(small, Path(folder) / "all")
        row(f"peak memory of {MANY:,} photos", f"{peak_mb:.0f} MB", "as above", "links to the same files")


def against_pillow(folder: Path) -> tuple[str, str, str, str]:
    """Write some cut-outs again, in turn with Pillow at its fastest setting."""

    def pillow(file: IO[bytes], picture: Image.Image) -> None:
        picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)

    seconds, written = {write_png: 0.0, pillow: 0.0}, {write_png: 0, pillow: 0}
    for path in sorted(folder.iterdir())[:100]:
        with Image.open(path) as picture:
            picture.load()
        for write in (write_png, pillow):
            file = io.BytesIO()
            started = time.perf_counter()
            write(file, picture)
            seconds[write] += time.perf_counter() - started
            written[write] += file.tell()
    time_ratio, size_ratio = (each[write_png] / each[pillow] for each in (seconds, written))
    measured = f"{time_ratio:.2f} of Pillow's time, {size_ratio:.2f} of its bytes"
    return "PNG of a cut-out", measured, "-", "100 of them, on one thread; Pillow's level 1 with Z_RLE"


def row(*cells: str) -> None:
    """Print a row of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def write_photos(folder: Path, count: int) -> Path:
    """Write JPEG files. Those after the first PHOTOS are hard links to these."""
    folder.mkdir()
    files = [Image.open(io.BytesIO(jpeg)) for jpeg in sample_photos(PHOTOS)]
    for n, photo in enumerate(islice(cycle(files), count)):
        path = folder / f"{n:05}.jpg"
        if n < len(files):
            photo.convert("RGB").resize(SIZE).save(path, "JPEG", quality=90)
        else:
            os.link(folder / f"{n % len(files):05}.jpg", path)
    return folder


def predict(photos: Path, out: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Run the command; return its JSON output, and the most memory that it took, in MB."""
    command = [sys.executable, "-m", "petseg", "predict", str(photos), "--out", str(out), "--json", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}; has make repro run?")
    return json.loads(output), used.ru_maxrss / 1e3


def sha256_of(folder: Path) -> str:
    """Return one hash of all files of a folder, with their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        digest.update(f"{path.relative_to(folder)}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
