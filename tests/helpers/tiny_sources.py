"""Writes the records of a tiny LLaVA data set in the other formats that can be learnt from."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 4
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MESSAGE_TYPE = pa.struct([("from", pa.string()), ("value", pa.string())])


def records_in(data: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file, `image` always a list."""
    records = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for record in records:
        names = record.get("image") or []
        record["image"] = [names] if isinstance(names, str) else names
    return records


def write_parquet(path: Path, records: Iterable[dict[str, Any]], images: Path) -> None:
    """Write records with their images inside, as `datasets` does: a list of structs of bytes and path."""
    rows = [
        record
        | {"image": [{"bytes": (images / name).read_bytes(), "path": name} for name in record["image"]]}
        for record in records
    ]
    types = {
        "id": pa.string(),
        "domain": pa.string(),
        "image": pa.list_(IMAGE_TYPE),
        "conversations": pa.list_(MESSAGE_TYPE),
    }
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_GROUP)


def write_tar(path: Path, records: Iterable[dict[str, Any]], images: Path) -> None:
    """Write records as WebDataset does: `KEY.json` and `KEY.0.png`, one after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for record in records:
            text = json.dumps({key: value for key, value in record.items() if key != "image"})
            add_member(tar, f"{record['id']}.json", text.encode())
            for number, name in enumerate(record["image"]):
                add_member(tar, f"{record['id']}.{number}.png", (images / name).read_bytes())


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file of `content`."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
