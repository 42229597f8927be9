import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.file_formats import lines
from finetune_trainer.file_formats.lines import read_lines


def problems(content: bytes) -> list[tuple[int, str | None]]:
    return [(line.number, line.problem) for line in read_lines("x", [content])]


def test_blank_lines_are_no_rows_but_count_as_lines() -> None:
    assert [line.number for line in read_lines("x", [b'{"a": 1}\n\n  \r\n{"a": 2}\n'])] == [1, 4]


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    assert problems(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n') == [(1, None), (2, None)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": "\xff"}', "not UTF-8 at byte 8 of the line"),
        (b'{"a": }', "not valid JSON at character 7"),
        (b"[1]", "not a JSON object"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number that is too long"),
    ],
)
def test_an_unreadable_line_says_why_without_its_content(line: bytes, words: str) -> None:
    (_, good), (number, problem) = problems(b'{"b": 1}\n' + line + b"\n")
    assert good is None
    assert number == 2
    assert problem is not None
    assert words in problem


def test_a_line_that_is_too_long_is_a_problem_of_that_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT_BYTES", 20)
    content = b'{"a": 1}\n{"a": "' + b"x" * 100 + b'"}\n{"a": 2}\n'
    for size in (1, 7, 1000):
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        assert [line.problem is None for line in read_lines("x", chunks)] == [True, False, True]


@given(
    texts=st.lists(st.text(max_size=20), max_size=12),
    size=st.integers(min_value=1, max_value=50),
    final_newline=st.booleans(),
)
def test_how_the_bytes_are_cut_into_chunks_does_not_matter(texts: list[str], size: int, final_newline: bool) -> None:
    content = "\n".join(json.dumps({"t": text}, ensure_ascii=False) for text in texts).encode()
    content += b"\n" if final_newline and content else b""
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    assert [line.value for line in read_lines("x", chunks)] == [{"t": text} for text in texts]
