"""WebDataset tar files: members that share a name up to its first dot are one sample, one after another.

Source: https://github.com/webdataset/webdataset, `base_plus_ext` and `group_by_keys`.
"""

import json
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from genrecal_mcore.data.sources.record import RawRecord, Record, SourceKind
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER, BrokenSample

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInTar:
    """The bytes of a member."""

    name: str
    file: Path
    first_byte: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.name} in {self.file}"

    def open(self) -> BinaryIO:
        """Return the image's bytes."""
        with self.file.open("rb") as tar:
            tar.seek(self.first_byte)
            return BytesIO(tar.read(self.num_bytes))


def scan_tar(path: Path) -> np.ndarray:
    """Return the samples of a tar file, `[n, 3]`: first byte, bytes with headers, number in the file."""
    places = array("q")
    with path.open("rb") as tar:
        for number, (_, group) in enumerate(groupby(_members(tar, path), key=_key), 1):
            members = list(group)
            first, end = members[0].offset, _end_of(members[-1])
            places.extend((first, end - first, number))
    return np.array(places, dtype=np.int64).reshape(-1, 3)


def read_members(record: Record) -> RawRecord:
    """Read the text of one sample and find its images, which are not read.

    The text is a conversation in `json`, or in `txt` a caption: the answer to its images alone, as LLaVA's
    `preprocess_plain` has it.
    """
    first, size = record.place
    with record.file.open("rb") as tar:
        tar.seek(first)
        members = list(_members(tar, record.file, end=first + size))
        if not members:
            raise ValueError(f"{record.file} has no sample at byte {first}; the file has changed")
        return _raw_record(tar, record, members)


def _raw_record(tar: BinaryIO, record: Record, members: list[tarfile.TarInfo]) -> RawRecord:
    images = [member for member in members if _suffix(member) in IMAGE_SUFFIXES]
    texts = [member for kind in ("json", "txt") for member in members if _suffix(member) == kind]
    key = _key(members[0])
    if not texts:
        raise BrokenSample(f"{members[0].name} has no {key}.json or {key}.txt beside it")
    fields = _fields(tar, texts[0], num_images=len(images))
    if isinstance(fields, dict):
        fields = {"id": key} | fields
    found = [
        ImageInTar(name=member.name, file=record.file, first_byte=member.offset_data, num_bytes=member.size)
        for member in images
    ]
    return RawRecord(fields=fields, images=tuple(found))


def _fields(tar: BinaryIO, member: tarfile.TarInfo, *, num_images: int) -> Any:
    tar.seek(member.offset_data)
    try:
        text = tar.read(member.size).decode()
        if _suffix(member) == "json":
            return json.loads(text)
    except ValueError as error:
        raise BrokenSample(f"{member.name} cannot be read: {error}") from None
    if not num_images:
        raise BrokenSample(f"{member.name} is a caption without an image beside it")
    question = IMAGE_PLACEHOLDER * num_images
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": text}]}


def _members(tar: BinaryIO, path: Path, *, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar from its present position on, hidden ones left out.

    Raises `ValueError` where the tar is cut off or damaged: `tarfile` would end there as if it were whole.
    """
    try:
        archive = tarfile.TarFile(fileobj=tar)
        for member in archive:
            if end is not None and member.offset >= end:
                return
            if member.isfile() and _NAME.fullmatch(member.name):
                yield member
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a whole tar file ({error}); fetch it again") from None
    if end is None:
        _check_end(tar, archive.offset, path)


def _check_end(tar: BinaryIO, at: int, path: Path) -> None:
    tar.seek(0, 2)
    num_bytes = tar.tell()
    tar.seek(at)
    if at > num_bytes or tar.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(
            f"{path} is damaged or cut off: it has {num_bytes} bytes, and no member begins at byte {at}; "
            "fetch it again"
        )


def _key(member: tarfile.TarInfo) -> str:
    return _parts(member)[0]


def _suffix(member: tarfile.TarInfo) -> str:
    return _parts(member)[1].lower().rpartition(".")[2]


def _parts(member: tarfile.TarInfo) -> tuple[str, str]:
    found = _NAME.fullmatch(member.name)
    assert found is not None
    return found[1], found[2]


def _end_of(member: tarfile.TarInfo) -> int:
    blocks = -(-member.size // tarfile.BLOCKSIZE)
    return member.offset_data + blocks * tarfile.BLOCKSIZE


WEBDATASET = SourceKind(scan=scan_tar, read=read_members)
