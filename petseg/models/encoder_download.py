"""Put the weights that an encoder starts from in place, and verify them."""

from pathlib import Path

from petseg.core.files import copy_atomically, open_file, sha256_file, why_not
from petseg.core.project import expanded
from petseg.core.textfiles import write_json
from petseg.data.download import Remote, download_all
from petseg.errors import EncoderError
from petseg.models import pretrained
from petseg.models.pretrained import MAX_WEIGHTS_BYTES, Encoder, origin_of

# torchvision's ResNet34_Weights.IMAGENET1K_V1; the name holds the first digits of the hash.
IMAGENET_WEIGHTS = Remote(
    "resnet34-b627a593.pth",
    ("https://download.pytorch.org/models",),
    "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "fetch https://download.pytorch.org/models/resnet34-b627a593.pth elsewhere, "
    "and set model.encoder_weights to the file's path",
)


def fetch_encoder(choice: str, into: Path, root: Path, backoff_s: float = 1.0) -> Encoder:
    """Put the chosen weights into a folder, and verify them.

    Args:
        choice: ``none``; ``imagenet``, torchvision's ResNet34 weights; or a file, relative to ``root``.
        into: folder to put resnet34.pth and encoder.json into.
        root: the main repository.
        backoff_s: pause after the first failure, in seconds; it is doubled after each further one.

    Raises:
        EncoderError: there is no such file.
        DownloadError: the weights can't be downloaded.
    """
    into.mkdir(parents=True, exist_ok=True)
    target = into / pretrained.WEIGHTS
    target.unlink(missing_ok=True)
    if choice == pretrained.IMAGENET:
        download_all([IMAGENET_WEIGHTS], into, root, backoff_s)
        (into / IMAGENET_WEIGHTS.name).replace(target)
    elif choice != pretrained.NONE:
        origin = root / expanded(choice)
        if not origin.is_file():
            raise EncoderError(
                f"model.encoder_weights: {choice}: no such file; allowed are none, imagenet, "
                "or a file with a state dict of torchvision's resnet34"
            )
        try:
            open_file(origin, MAX_WEIGHTS_BYTES).close()
        except OSError as error:
            raise EncoderError(f"model.encoder_weights: {why_not(error)}") from None
        copy_atomically(origin, target)
    digest = sha256_file(target) if target.exists() else None
    write_json(into / pretrained.ABOUT, {"origin": origin_of(choice), "sha256": digest})
    return Encoder.open(into, choice)
