"""Opens images, and says what is wrong with one in the same words at the door and during a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from genrecal_mcore.data.types import BrokenSample, SampleImage


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A file of its own."""

    name: str
    """Its path in the source's folder of images."""
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> Path:
        """Return its path."""
        return self.path


@contextmanager
def opened_image(image: SampleImage) -> Iterator[Image.Image]:
    """Open an image.

    Raises `BrokenSample` naming it when it is missing or cannot be read, also where it is decoded only inside
    the block.
    """
    try:
        with Image.open(image.open()) as opened:
            yield opened
    except BrokenSample:
        raise
    except FileNotFoundError:
        raise BrokenSample(f"the image {image} does not exist") from None
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BrokenSample(f"the image {image} cannot be read: {error}") from None


def identity_of(image: SampleImage) -> str:
    """Return what tells an image apart: the name of a file, the digest of bytes inside one."""
    content = image.open()
    return image.name if isinstance(content, Path) else sha256(content.read()).hexdigest()


def content_digest(image: SampleImage) -> str:
    """Return the digest of an image's bytes, wherever they lie; raises `OSError` when they cannot be read."""
    content = image.open()
    if not isinstance(content, Path):
        return sha256(content.read()).hexdigest()
    with content.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
