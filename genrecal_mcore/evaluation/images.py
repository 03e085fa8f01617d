"""Opens the images of questions: files, or base64 text in the rows of a TSV file."""

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from genrecal_mcore.data import BrokenSample, SampleImage
from genrecal_mcore.data.images import opened_image
from genrecal_mcore.evaluation.field_lists import split_list
from genrecal_mcore.evaluation.files.tsv import read_row
from genrecal_mcore.evaluation.question import ImageInRow, RowPlace


def open_images(images: Sequence[SampleImage | ImageInRow]) -> list[Image.Image]:
    """Return the decoded images in RGB, in order; a row that holds several is read once.

    Raises `BrokenSample` naming the image that is missing or does not decode.
    """
    rows: dict[tuple[Path, RowPlace], list[str]] = {}
    opened = []
    for image in images:
        if not isinstance(image, ImageInRow):
            with opened_image(image) as found:
                opened.append(found.convert("RGB"))
            continue
        key = image.file, image.row
        if key not in rows:
            rows[key] = split_list(read_row(image.file, image.row)[image.row.column])
        opened.append(_open_base64(rows[key][image.position], position=image.position))
    return opened


def _open_base64(text: str, *, position: int) -> Image.Image:
    what = f"image {position + 1} of the row"
    try:
        data = base64.b64decode(text)
    except binascii.Error as error:
        raise BrokenSample(f"{what} is not base64: {error}") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BrokenSample(f"{what} cannot be read: {error}") from None
