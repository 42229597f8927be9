import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from finetune_trainer.dataset_files import find_files
from finetune_trainer.file_formats import arrow_rows, json_array, lines
from finetune_trainer.file_formats.compression import Compression, decompressed
from finetune_trainer.file_formats.csv_rows import read_csv
from finetune_trainer.file_formats.json_array import read_array
from finetune_trainer.file_formats.lines import BrokenFile, Line
from finetune_trainer.storage import open_storage
from finetune_trainer.storage_errors import StorageUnavailable

Rows = list[dict[str, Any]]
ROWS: Rows = [{"prompt": f'"{n}",\n+ 1 ä', "completion": f"{n}"} for n in range(2500)]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_text(rows: Rows) -> bytes:
    return json.dumps(rows, indent=1).encode()


def csv_text(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet_file(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=700)
    return bytes(sink.getvalue())


def feather_file(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(pa.Table.from_pylist(rows), sink, chunksize=700)
    return bytes(sink.getvalue())


def arrow_stream(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return bytes(sink.getvalue())


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "x.jsonl": jsonl,
    "x.json": json_text,
    "lines.json": jsonl,
    "x.csv": csv_text,
    "x.tsv": lambda rows: csv_text(rows, "\t"),
    "x.parquet": parquet_file,
    "without-an-extension": parquet_file,
    "x.feather": feather_file,
    "x.arrow": arrow_stream,
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd")),
}


def read(folder: Path, name: str, content: bytes) -> list[Line]:
    (folder / name).write_bytes(content)
    return list(find_files(f"file://{folder}/{name}").lines())


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, name, WRITERS[name](ROWS))
    assert [line.value for line in found] == ROWS
    assert len({line.number for line in found}) == len(ROWS)


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.arrow"])
def test_text_and_streams_are_read_compressed_whatever_their_name_says(tmp_path: Path, name: str, ending: str) -> None:
    content = WRITERS[name](ROWS)
    half = len(content) // 2
    # Two frames, as parallel compressors and appending programs write them.
    packed = COMPRESSORS[ending](content[:half]) + COMPRESSORS[ending](content[half:])
    assert [line.value for line in read(tmp_path, f"{name}{ending}", packed)] == ROWS
    assert [line.value for line in read(tmp_path, name, packed)] == ROWS


def tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("x.jsonl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.jsonl", content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem", "remedy"),
    [
        ("x.jsonl.gz", gzip.compress(jsonl(ROWS))[:-20], "its gzip is damaged or cut short", "write it again"),
        ("x.jsonl.zst", bytes(pa.compress(jsonl(ROWS), codec="zstd"))[:-20], "its zstd is damaged", "write it again"),
        ("x.jsonl.bz2", bz2.compress(jsonl(ROWS))[:-20], "its bz2 is damaged", "write it again"),
        ("x.jsonl.xz", lzma.compress(jsonl(ROWS))[:-20], "its xz is damaged", "write it again"),
        ("x.jsonl.gz", gzip.compress(gzip.compress(jsonl(ROWS))), "it is compressed twice", "compress it once"),
        ("x.jsonl.gz", b"<html>", "it is not gzip, as its name says", "rename it"),
        ("x.tar.gz", gzip.compress(tar(jsonl(ROWS))), "it is a tar archive", "unpack it"),
        ("x.zip", zipped(jsonl(ROWS)), "it is a zip archive", "unpack it"),
        ("x.jsonl", "ä".encode("utf-16"), "it is UTF-16 text", "write it in UTF-8"),
        ("x.parquet", b"<html>", "it is not parquet, as its name says", "write it again"),
        ("x.parquet", parquet_file(ROWS)[:-20], "its Parquet is damaged, cut short", "write it again"),
        ("x.parquet.gz", gzip.compress(parquet_file(ROWS)), "parquet in gzip", "compressed inside"),
        ("x.arrow", arrow_stream(ROWS)[:-2000], "its Arrow stream is damaged, cut short", "write it again"),
        ("x.feather", feather_file(ROWS)[:-20], "its Arrow is damaged, cut short", "write it again"),
        ("x.json", json_text(ROWS)[:-20], "it ends within its array, in or after line", "write it again"),
        ("x.json", json_text(ROWS) + b"[]", "something follows the end of its array", "write one array"),
        ("x.csv", b"a,a\n1,2\n", "its first line is not the names", "write them in the first line"),
        ("x.csv", b"", "its first line is not the names", "write them in the first line"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason_and_the_remedy(
    tmp_path: Path, name: str, content: bytes, problem: str, remedy: str
) -> None:
    with pytest.raises(BrokenFile) as refusal:
        read(tmp_path, name, content)
    assert all(words in str(refusal.value) for words in (f"file {name} ", problem, remedy))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=5),
    indent=st.sampled_from([None, 1]),
    size=st.integers(min_value=1, max_value=40),
)
def test_an_array_is_read_however_it_is_written_and_cut(rows: Rows, indent: int | None, size: int) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    found = list(read_array("x", (content[start : start + size] for start in range(0, len(content), size))))
    assert [line.value for line in found] == rows
    text_lines = content.split(b"\n")
    assert all(text_lines[line.number - 1].lstrip(b"[ ").startswith(b"{") for line in found)


def test_a_broken_element_of_an_array_costs_that_element() -> None:
    found = list(read_array("x", [b'[{"a": 1},\n {"a": }, 3,\n{"a": "\\ud800"}, {"a": "]"}\n]\n']))
    assert [(line.number, line.value) for line in found if line.value] == [(1, {"a": 1}), (3, {"a": "]"})]
    assert [(line.number, line.problem) for line in found if line.problem] == [
        (2, "not valid JSON at character 7 of the element"),
        (2, "not a JSON object"),
        (3, "half of a surrogate pair (\\ud800 to \\udfff), which is no character"),
    ]


def test_an_element_that_is_too_long_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "LINE_LIMIT_BYTES", 50)
    with pytest.raises(BrokenFile, match="in or after line 1 is longer than"):
        list(read_array("x", [b'[{"a": 1},\n', b'{"a": "' + b"x" * 100]))


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"a": st.text(alphabet='ab",\n\r é', max_size=6), "b": st.text(max_size=4)}),
        min_size=1,
        max_size=5,
    ),
    size=st.integers(min_value=1, max_value=40),
)
def test_csv_is_read_however_it_is_cut(rows: Rows, size: int) -> None:
    content = csv_text(rows)
    found = list(read_csv("x", (content[start : start + size] for start in range(0, len(content), size))))
    assert [line.value for line in found] == rows


def test_a_row_of_csv_that_cannot_be_read_costs_that_row() -> None:
    content = b'a,b\n1,2\n1,2,3\n\n"x"y,2\n\xff,2\n"two\nlines",2\n1,2\n"open,2\n'
    assert [(line.number, line.problem) for line in read_csv("x", [content])] == [
        (2, None),
        (3, "3 values for 2 columns"),
        (5, "not valid CSV: ',' expected after '\"'"),
        (6, "not UTF-8 at byte 1 of the line"),
        (7, None),
        (9, None),
        (10, "not valid CSV: unexpected end of data"),
    ]


def test_a_line_of_csv_that_is_too_long_costs_that_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT_BYTES", 20)
    found = list(read_csv("x", [b"a,b\n" + b"1" * 100 + b",2\n1,2\n"]))
    assert [line.problem is None for line in found] == [False, True]


def test_text_of_an_arrow_column_that_is_not_utf_8_costs_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff", b"three"], pa.binary()).view(pa.string())
    sink = pa.BufferOutputStream()
    feather.write_feather(pa.table({"prompt": texts}), sink)
    found = read(tmp_path, "x.feather", bytes(sink.getvalue()))
    assert [(line.number, line.problem is None) for line in found] == [(1, True), (2, False), (3, True)]


def test_what_is_a_thousand_times_smaller_than_its_content_is_never_whole_in_memory() -> None:
    small = gzip.compress(bytes(64 * 1024**2))
    assert max(len(piece) for piece in decompressed("x", [small], Compression.GZIP)) <= 8 * 1024**2


def test_a_store_that_fails_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield gzip.compress(jsonl(ROWS))[:50]
        raise StorageUnavailable("s3://b/x", "it does not answer", "it is tried again")

    with pytest.raises(StorageUnavailable):
        list(decompressed("x", failing(), Compression.GZIP))
    (tmp_path / "x.parquet").write_bytes(parquet_file(ROWS))
    storage = open_storage(f"file://{tmp_path}")
    file = storage.head("x.parquet")
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(Exception, match="it is not there"):
        list(arrow_rows.read_parquet(storage, file))
