"""Opens image files, and says what is wrong with one in the same words at the door and during a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from genrecal_mcore.data.llava import BrokenSample


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file.

    Raises `BrokenSample` naming the file when it is missing or cannot be read, also where it is decoded only
    inside the block.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise BrokenSample(f"the image {path} does not exist") from None
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BrokenSample(f"the image {path} cannot be read: {error}") from None
