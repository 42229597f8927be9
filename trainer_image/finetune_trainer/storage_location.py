"""Locations as users write them: scheme, bucket, path. Pure, so that a bad one is refused with words before anything is asked."""

from __future__ import annotations

import fnmatch
import posixpath
from dataclasses import dataclass, replace
from typing import Final

from finetune_trainer.storage_errors import StorageRefused

SCHEMES: Final = ("hf", "s3", "gs", "az", "file")


@dataclass(frozen=True)
class Location:
    """A folder or object: `bucket` is empty for file, and the whole `org/name` for hf."""

    scheme: str
    bucket: str
    path: str
    """Without leading or trailing slash."""
    revision: str | None = None
    """Of an hf location, as in hf://org/name@revision."""

    @property
    def uri(self) -> str:
        """The location in its canonical form."""
        root = f"{self.scheme}://{self.bucket}" + (f"@{self.revision}" if self.revision else "")
        return f"{root}/{self.path}" if self.path or self.scheme == "file" else root

    def child(self, name: str) -> Location:
        """Return the location of `name` below this one."""
        return replace(self, path="/".join(part for part in (self.path, name.strip("/")) if part))


def parse_location(uri: str) -> Location:
    """Return the parts of a location; what is malformed is StorageRefused."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        raise StorageRefused(
            uri.split("?")[0], "it is not a location", f"write it with one of the schemes {', '.join(SCHEMES)}"
        )
    if scheme == "file":
        if not rest.startswith("/"):
            raise StorageRefused(uri, "a file:// location needs an absolute path", f"write file:///{rest}")
        return Location(scheme, "", posixpath.normpath(rest).strip("/"))
    if scheme == "hf":
        return _hub_location(uri, rest)
    bucket, _, path = rest.partition("/")
    if "@" in bucket or not bucket:
        # An @ would be a user and a password: never repeated in a message.
        raise StorageRefused(
            f"{scheme}://…",
            "it has no bucket, or credentials in it",
            "write scheme://bucket/path; keys belong in a Secret",
        )
    return Location(scheme, bucket, posixpath.normpath(path).strip("/") if path.strip("/") else "")


def _hub_location(uri: str, rest: str) -> Location:
    parts = rest.strip("/").split("/")
    head = 3 if parts[0] == "datasets" else 2
    if len(parts) < head or not all(parts):
        raise StorageRefused(uri, "it does not name a repository", "write hf://org/name or hf://datasets/org/name/path")
    repository = "/".join(parts[:head])
    repository, _, revision = repository.partition("@")
    return Location("hf", repository, "/".join(parts[head:]), revision or None)


def split_pattern(uri: str) -> tuple[str, str]:
    """Return the folder of a file location and the file's name or pattern below it.

    A `*` may stand in any part of the path; the folder is what comes before the first part that has one.
    """
    location = parse_location(uri)
    parts = location.path.split("/")
    first = next((index for index, part in enumerate(parts) if "*" in part), len(parts) - 1)
    folder = replace(location, path="/".join(parts[:first]))
    return folder.uri, "/".join(parts[first:])


def matches(name: str, pattern: str) -> bool:
    """Return whether a file's name fits a pattern part by part: a `*` never crosses a slash."""
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(
        fnmatch.fnmatchcase(part, wanted) for part, wanted in zip(names, patterns, strict=True)
    )
