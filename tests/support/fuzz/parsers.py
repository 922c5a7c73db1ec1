"""The parsers of files and requests: for each its valid samples, their mutations, and the reading function.

Each function takes an empty folder of its own, and can be pickled by its name for another process.
"""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import torch
from PIL import Image

from petseg.core.loopback import App, Message
from petseg.core.textfiles import write_json
from petseg.data.archives import read_members, verify
from petseg.data.encodings import mask_values
from petseg.data.images import decode_photo, decode_trimap
from petseg.data.listing import INDEX, LEFT_OUT, read_listing
from petseg.data.own_folder import read_own
from petseg.errors import BadImage, DataError, PetsegError
from petseg.models.predictor import Predictor
from petseg.models.weights import save_tensors
from petseg.params import load_params
from petseg.store.adopt import adopt
from petseg.store.identify import Weights
from petseg.store.layout import ABOUT, WEIGHTS
from tests.support import ROOT
from tests.support.fuzz import mutation
from tests.support.fuzz.running import Parser, Prepare
from tests.support.pets import HEIC, OwnFolder, encoded, picture, trimap
from tests.support.runs import make_run

Mutate = Callable[[Random, bytes], bytes]
CPU = torch.device("cpu")


def of_samples(samples: list[bytes], mutate: Mutate = mutation.bytes_of) -> Callable[[Random], bytes]:
    """Return a function that makes an input from one of the samples."""
    return lambda random: mutate(random, random.choice(samples))


def of_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that writes an input to a file and has the file read."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def parse(data: bytes) -> object:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        return read(path)

    return parse


def params(folder: Path) -> Parser:
    sample = (ROOT / "params.yaml").read_bytes()
    mutate = partial(mutation.lines_of, odd=mutation.ODD_YAML + mutation.ODD_TEXTS)
    return Parser(of_samples([sample], mutate), of_file(folder / "params.yaml", load_params))


def own_folder(folder: Path, name: str, sample: str) -> Parser:
    """A list or a table in a folder of the user's own photos."""
    own = OwnFolder(folder / "own", ("a", "b", "c", "d"))
    if name != "pairs.csv":
        own.write("test.txt", "c\n")

    def read(path: Path) -> object:
        return read_own(path if name == "pairs.csv" else own.folder)

    return Parser(of_samples([sample.encode()], mutation.lines_of), of_file(own.folder / name, read))


PAIRS = "image,mask,label,species,group,split\n" + "".join(
    f"images/{name}.jpg,masks/{name}.png,pug,dog,g{name},{part}\n"
    for name, part in zip("abcd", ("train", "train", "val", "test"), strict=True)
)
OFFICIAL = "".join(f"{name} 1 {1 + name[0].islower()} 1\n" for name in ("Bengal_1", "pug_1", "pug_2"))
INDEX_CSV = "name,breed,species,group,split\na,pug,dog,,trainval\nb,pug,dog,g,test\n"


def listing(folder: Path) -> Parser:
    """The lists of an annotations archive, in both forms."""

    def parse(data: bytes) -> object:
        text = data.decode(errors="replace")
        lists = {"annotations/trainval.txt": text, "annotations/test.txt": "Bengal_9 1 1 1\n"}
        left_out = "name,verdict,reason\n" + text.partition("\n")[2]
        texts = ({INDEX: text}, {INDEX: INDEX_CSV, LEFT_OUT: left_out}, lists)
        for each in texts[1:]:
            with suppress(DataError):
                read_listing("annotations.tar.gz", each)
        return read_listing("annotations.tar.gz", texts[0])

    return Parser(of_samples([OFFICIAL.encode(), INDEX_CSV.encode()], mutation.lines_of), parse)


def archive(folder: Path) -> Parser:
    """A tar.gz: the compressed bytes are changed, or the tar inside."""
    tars = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as made:
            for name in ("images/a.jpg", f"images/{'long' * 20}/{'name' * 20}.jpg", "annotations/é.txt"):
                info = tarfile.TarInfo(name)
                info.size = 700
                made.addfile(info, io.BytesIO(b"x" * 700))
            if kind == tarfile.USTAR_FORMAT:
                link = tarfile.TarInfo("images/l")
                link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
                made.addfile(link)
        tars.append(file.getvalue())

    def make(random: Random) -> bytes:
        tar = random.choice(tars)
        if random.random() < 0.3:
            return mutation.bytes_of(random, gzip.compress(tar, 1, mtime=0))
        return gzip.compress(mutation.bytes_of(random, tar), 1, mtime=0)

    def read(path: Path) -> object:
        verify(path, None)
        return list(read_members(path, re.compile(r"images/.*")))

    return Parser(make, of_file(folder / "images.tar.gz", read))


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "SGI")


def image(folder: Path, kind: str) -> Parser:
    """An image file that is read as a photo, as a trimap and as a mask."""
    if kind == "HEIC":
        samples = [HEIC.read_bytes()]
    else:
        small, grey = picture(1, (24, 16)), trimap((32, 32))
        exif = Image.Exif()
        exif[0x0112] = 6
        forms: list[tuple[Image.Image, dict[str, Any]]] = [
            (small, {}),
            (grey, {}),
            (grey.convert("P"), {}),
            (small.convert("RGBA"), {}),
        ]
        forms += [(small.convert("CMYK"), {}), (grey.convert("I;16"), {}), (grey.convert("1"), {})]
        forms += [(small, {"exif": exif, "icc_profile": b"odd" * 99}), (grey, {"compression": "tiff_lzw"})]
        forms += [(small, {"progressive": True}), (small, {"save_all": True, "append_images": [small] * 2})]
        samples = sorted(_saved(forms, kind))
    return Parser(of_samples(samples), _all_of(decode_photo, decode_trimap, _mask))


def _mask(data: bytes) -> object:
    return mask_values(data, "binary_255")


def _saved(forms: list[tuple[Image.Image, dict[str, Any]]], kind: str) -> set[bytes]:
    found = set()
    for form, options in forms:
        try:
            found.add(encoded(form, kind, **options))
        except (OSError, ValueError, KeyError):  # the format has no such mode
            continue
    return found


def _all_of(
    first: Callable[[bytes], object], *others: Callable[[bytes], object]
) -> Callable[[bytes], object]:
    """Return a function that calls all the parsers. The result of the first one counts."""

    def parse(data: bytes) -> object:
        for each in others:
            with suppress(BadImage, PetsegError):
                each(data)
        return first(data)

    return parse


def _used(path: Path) -> object:
    weights = Weights.read(path)
    return weights.sha256, weights.epoch, weights.about.get("run_key")


# Each dtype, and how many values of it fill the 24 bytes of the sample's weights.
_DTYPES = {"F64": 3, "F16": 12, "BF16": 12, "F8_E4M3": 24, "F8_E5M2": 24, "F8_E8M0": 24, "F4": 48, "I32": 6}
_DTYPES |= {"U16": 12, "U64": 3, "BOOL": 24, "C64": 3, "X": 24}


def safetensors_file(folder: Path) -> Parser:
    """Weights with sealed metadata: with changed bytes, a changed header, or other sealed metadata."""
    record = {"epoch": 2, "val_dice": 0.5, "elapsed_s": 1.0}
    about = {"run_key": "aa", "record": record, "history": [record]}
    tensors = {"network/w": torch.ones(3, 2), "network/b": torch.zeros(2, dtype=torch.int64)}
    save_tensors(folder / "sample.safetensors", tensors, about)
    whole = (folder / "sample.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    text = json.loads(header["__metadata__"]["petseg"])["text"]

    def make(random: Random) -> bytes:
        match random.randrange(5):
            case 0:
                return mutation.bytes_of(random, whole)
            case 4:
                dtype = random.choice(list(_DTYPES))
                other = json.dumps(header).replace('"F32"', f'"{dtype}"')
                other = other.replace("[3, 2]", f"[{_DTYPES[dtype]}]")
                return _safetensors(other.encode(), rest)
            case 1:
                return _safetensors(mutation.json_of(random, json.dumps(header).encode()), rest)
            case 2:
                sealed = mutation.json_of(random, header["__metadata__"]["petseg"].encode())
            case _:
                changed = mutation.json_of(random, text.encode()).decode(errors="replace")
                proof = hashlib.sha256(changed.encode(errors="replace")).hexdigest()
                sealed = json.dumps({"text": changed, "sha256": proof}).encode()
        metadata = {"petseg": sealed.decode(errors="replace")}
        return _safetensors(json.dumps(header | {"__metadata__": metadata}).encode(), rest)

    return Parser(make, of_file(folder / "w.safetensors", _used))


def _safetensors(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def torch_file(folder: Path) -> Parser:
    """State dicts by torch.save, and a safetensors file of others: read and adopted."""
    samples = []
    tied = torch.ones(4, 3)
    states: list[Any] = [
        {"w": torch.ones(3, 2), "n": torch.tensor(3)},
        {"a": tied, "b": tied[1:], "c": tied.to(torch.bfloat16), "d": tied.to(torch.float8_e4m3fn)},
        {"s": torch.eye(3).to_sparse(), "m": torch.ones(2, 2).t()},
        {"state_dict": {"w": torch.ones(2)}, "epoch": 3},
        {"w": torch.empty(1).expand(1000, 1000)},
    ]
    for state in states:
        for legacy in (False, True):
            file = io.BytesIO()
            torch.save(state, file, _use_new_zipfile_serialization=not legacy)
            samples.append(file.getvalue())
    samples.append(_safetensors(b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', b"abcd"))
    store = folder / "runs"

    def read(path: Path) -> object:
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        return adopt(path, store, "found")

    return Parser(of_samples(samples), of_file(folder / "w.pt", read))


def model_json(folder: Path) -> Parser:
    """A model.json beside its weights."""
    run = make_run(folder / "runs/aa", "unet")
    shutil.copy(run.folder / WEIGHTS, folder / "use.safetensors")

    def read(path: Path) -> object:
        predictor = Predictor.load(folder / "use.safetensors", path, CPU, flip_average=False)
        return predictor.probability_of(Image.new("RGB", (9, 7)))

    sample = (run.folder / ABOUT).read_bytes()
    return Parser(of_samples([sample], mutation.json_of), of_file(folder / "use.json", read))


def _send_request(app: App, path: str, query: str, body: bytes) -> None:
    """Send a request to an ASGI application. A status of 500 or more is a mistake of the application."""
    statuses: list[int] = []
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope: Message = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": quote(path).encode(), "query_string": query.encode("latin-1", "replace"),
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert len(statuses) == 1
    assert statuses[0] < 500


def demo(folder: Path) -> Parser:
    """A request to the demo: a line with its path and query, then a photo."""
    from petseg.predict.demo.app import Rate, make_app
    from petseg.predict.demo.models import Models

    key = "aaaa111122223333"
    make_run(folder / "runs" / key, "unet")
    app: Any = make_app(Models(folder, key, CPU))
    app._rate = Rate(10**9, 60)
    photos = [encoded(picture(1, (24, 16)), kind) for kind in ("JPEG", "PNG", "WEBP")]
    requests = [f"/api/probability?model={key}"]
    requests += [
        f"/api/{kind}?model={key}&threshold=0.5&edge=whole&as_is=true" for kind in ("mask", "cutout")
    ]

    def make(random: Random) -> bytes:
        line, photo = random.choice(requests).encode(), random.choice(photos)
        if random.random() < 0.5:
            line = mutation.lines_of(random, line).replace(b"\n", b"").replace(b" ", b"+")
        if random.random() < 0.8:
            photo = mutation.bytes_of(random, photo)
        return line + b"\n" + photo

    def parse(data: bytes) -> None:
        line, _, photo = data.partition(b"\n")
        path, _, query = line.decode(errors="replace").partition("?")
        _send_request(app, path if path.startswith("/") else f"/{path}", query, photo)

    return Parser(make, parse)


def served(folder: Path) -> Parser:
    """A request to the served model: JSON in each of the forms that it accepts."""
    from petseg.tracking.pyfunc import PetSegmenter
    from petseg.tracking.serving import MAX_PHOTOS, Front

    run = make_run(folder / "runs/aa", "unet")
    decision = {"thresholds": {"whole": 0.5, "tight": 0.4}, "flip_average": False}
    write_json(folder / "decision.json", decision)
    files = {
        "decision": folder / "decision.json",
        "weights": run.folder / WEIGHTS,
        "about": run.folder / ABOUT,
    }
    model = PetSegmenter()
    model.load_context(SimpleNamespace(artifacts={name: str(path) for name, path in files.items()}))

    async def unreachable(scope: Message, receive: object, send: object) -> None:
        raise AssertionError("MLflow was reached")

    app = Front(unreachable, partial(model.segment, most=MAX_PHOTOS))
    photo = base64.b64encode(encoded(picture(1, (8, 8)), "PNG")).decode()
    pixels = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 255, 1]]]
    params = {"edge": "whole", "as_is": True}
    samples = [
        json.dumps(each).encode()
        for each in (
            {"inputs": pixels, "params": params},
            {"instances": [pixels, pixels]},
            {"inputs": [photo, photo], "params": params},
            {"dataframe_split": {"columns": ["image"], "data": [[photo]]}},
            {"dataframe_records": [{"image": photo}], "params": {"edge": "tight"}},
        )
    ]
    return Parser(
        of_samples(samples, mutation.json_of), lambda body: _send_request(app, "/invocations", "", body)
    )


def own_list(folder: Path) -> Parser:
    return own_folder(folder, "train.txt", "a\nb.jpg\n# c\nd\n")


def groups(folder: Path) -> Parser:
    return own_folder(folder, "groups.csv", "name,group\na,1\nb,1\nc,2\nd,2\n")


def pairs(folder: Path) -> Parser:
    return own_folder(folder, "pairs.csv", PAIRS)


PARSERS: dict[str, Prepare] = {
    "params.yaml": params,
    "pairs.csv": pairs,
    "train.txt": own_list,
    "groups.csv": groups,
    "lists of an archive": listing,
    "tar.gz": archive,
    **{f"photo: {kind}": partial(image, kind=kind) for kind in (*FORMATS, "HEIC")},
    "safetensors": safetensors_file,
    "torch.save, adopted": torch_file,
    "model.json": model_json,
    "request of the demo": demo,
    "request of the served model": served,
}
