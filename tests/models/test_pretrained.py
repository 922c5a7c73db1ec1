"""Published weights of the encoder are fetched completely and loaded by their names, or refused in a line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34

from petseg.core.files import sha256_file
from petseg.data.download import Remote
from petseg.errors import DownloadError, EncoderError
from petseg.models import encoder_download, pretrained
from petseg.models.encoder_download import fetch_encoder
from petseg.models.pretrained import Encoder
from petseg.models.resnet34_unet import ResNet34UNet
from petseg.params import Params
from petseg.training.loop import TrainingState
from tests.support.http_server import Server, closed_port

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the format of torchvision, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "resnet34.pth"
    torch.save(resnet34().state_dict(), path)
    return path


def state_from(params: Params, encoder: Encoder) -> TrainingState:
    model = params.model.model_copy(update={"name": "resnet34_unet", "width": 4})
    return TrainingState.new(model, params.train, CPU, encoder.path)


def encoder_of(network: nn.Module) -> Any:
    assert isinstance(network, ResNet34UNet)
    return network.encoder


def test_none_needs_no_file(tmp_path: Path) -> None:
    encoder = fetch_encoder("none", tmp_path / "encoder", tmp_path)
    assert (encoder.name, encoder.path) == ("none", None)
    assert [path.name for path in (tmp_path / "encoder").iterdir()] == [pretrained.ABOUT]


@pytest.mark.whole
def test_a_file_of_torchvision_loads_unchanged(tmp_path: Path, published: Path, params: Params) -> None:
    encoder = fetch_encoder(str(published), tmp_path / "encoder", tmp_path)
    assert encoder.sha256 == sha256_file(published)
    assert encoder.name == f"sha256:{encoder.sha256[:16]}"
    state = state_from(params, encoder)
    expected = {k: v for k, v in torch.load(published, weights_only=True).items() if not k.startswith("fc.")}
    found = encoder_of(state.network).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert state.average is not None
    assert torch.equal(encoder_of(state.average).conv1.weight, expected["conv1.weight"])
    random = state_from(params, fetch_encoder("none", tmp_path / "none", tmp_path))
    assert not torch.equal(encoder_of(random.network).conv1.weight, expected["conv1.weight"])


def test_another_choice_removes_the_old_weights(tmp_path: Path, published: Path) -> None:
    fetch_encoder(str(published), tmp_path / "encoder", tmp_path)
    assert fetch_encoder("none", tmp_path / "encoder", tmp_path).path is None
    assert not (tmp_path / "encoder" / pretrained.WEIGHTS).exists()


def test_a_relative_file_counts_from_the_repository(tmp_path: Path, published: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(published.read_bytes())
    assert fetch_encoder("mine.pth", tmp_path / "encoder", tmp_path).origin == "mine.pth"


def test_an_absent_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"model.encoder_weights: gone.pth: no such file; allowed are none"
    ):
        fetch_encoder("gone.pth", tmp_path / "encoder", tmp_path)


def serve_at(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str) -> None:
    where = Remote("resnet34-b627a593.pth", (url,), sha256, encoder_download.IMAGENET_WEIGHTS.otherwise)
    monkeypatch.setattr(encoder_download, "IMAGENET_WEIGHTS", where)


@pytest.mark.whole
def test_imagenet_weights_are_downloaded_and_verified(
    tmp_path: Path,
    published: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (server.folder / "resnet34-b627a593.pth").write_bytes(published.read_bytes())
    serve_at(monkeypatch, server.url, sha256_file(published))
    encoder = fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0)
    assert (
        encoder.name == f"sha256:{sha256_file(published)[:16]}"
    )  # the name that a file of the user would have
    assert Encoder.open(tmp_path / "encoder", "imagenet") == encoder
    serve_at(monkeypatch, server.url, "0" * 64)
    with pytest.raises(DownloadError, match=r"sha256 is .* expected 0000"):
        fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0)


@pytest.mark.whole
def test_imagenet_weights_are_fetched_once(
    tmp_path: Path,
    published: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (server.folder / "resnet34-b627a593.pth").write_bytes(published.read_bytes())
    serve_at(monkeypatch, server.url, sha256_file(published))
    server.cut_after = [1000] * 5
    with pytest.raises(DownloadError, match="5,000 bytes are kept for the next try"):
        fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0)
    encoder = fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0)
    assert server.ranges[-1] == "bytes=5000-"

    (kept,) = (tmp_path / "data/fetched").rglob("*.pth")
    with kept.open("r+b") as file:
        file.seek(1000)
        file.write(bytes([published.read_bytes()[1000] ^ 1]))
    assert fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0) == encoder
    assert f"{kept}: differs from its sha256; it is fetched again" in capsys.readouterr().err

    requests = len(server.ranges)
    server.shutdown()
    server.server_close()
    shutil.rmtree(tmp_path / "encoder")  # DVC does that before the stage
    assert fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0) == encoder
    assert len(server.ranges) == requests
    assert sha256_file(tmp_path / "encoder" / pretrained.WEIGHTS) == sha256_file(published)


def test_without_a_network_the_file_and_its_url_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_at(monkeypatch, f"http://127.0.0.1:{closed_port()}", "0" * 64)
    with pytest.raises(DownloadError) as error:
        fetch_encoder("imagenet", tmp_path / "encoder", tmp_path, backoff_s=0)
    assert "can't download resnet34-b627a593.pth (" in str(error.value)
    assert "fetch https://download.pytorch.org/models/resnet34-b627a593.pth elsewhere" in str(error.value)
    assert "set model.encoder_weights to the file's path" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.whole
def test_a_file_of_other_weights_is_refused(tmp_path: Path, params: Params) -> None:
    contents = {
        "resnet18.pth": (resnet18().state_dict(), "is not a ResNet34 of torchvision"),
        "short.pth": (b"PK", "can't be read as weights"),
        "empty.pth": (b"", "can't be read as weights"),
        "list.pth": ([torch.zeros(1)], "holds no state dict"),
        "pickle.pth": (b"\x80\x04.", "can't be read as weights"),
        "numbers.pth": ({1: torch.zeros(1)}, "holds no state dict"),
        "nan.pth": (
            {"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)},
            "holds NaN or infinity in conv1.w",
        ),
        "nested.pth": ({"model": {"conv1.weight": torch.zeros(1)}}, "holds no state dict"),
    }
    for name, (content, message) in contents.items():
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(EncoderError, match=f"resnet34.pth: {message}") as error:
            state_from(params, fetch_encoder(name, tmp_path / "encoder", tmp_path))
        assert "\n" not in str(error.value)


def test_hostile_weights_execute_nothing(tmp_path: Path, params: Params) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
            return Path.touch, (tmp_path / "EXECUTED",)

    torch.save({"conv1.weight": Hostile()}, tmp_path / "evil.pth")
    with pytest.raises(EncoderError, match="can't be read as weights"):
        state_from(params, fetch_encoder("evil.pth", tmp_path / "encoder", tmp_path))
    assert not (tmp_path / "EXECUTED").exists()


def test_an_edited_weights_file_is_refused(tmp_path: Path, published: Path) -> None:
    fetch_encoder(str(published), tmp_path / "encoder", tmp_path)
    with (tmp_path / "encoder" / pretrained.WEIGHTS).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(EncoderError, match="differs from its sha256; run dvc repro -f encoder"):
        Encoder.open(tmp_path / "encoder", str(published))
    with pytest.raises(EncoderError, match="run dvc repro encoder"):
        Encoder.open(tmp_path / "nowhere", "none")
