"""Files, local or remote: reading, listing, formats, fingerprints, and writes that are complete or absent."""

from bsssl.storage.fingerprints import digest, fingerprint, state
from bsssl.storage.formats import (
    TABLES,
    as_json,
    parse_json,
    read_json,
    read_json_lines,
    read_ledger,
    table_format,
    write_csv,
    write_json,
    write_json_lines,
    write_ledger,
)
from bsssl.storage.listing import glob, walk, walk_folders
from bsssl.storage.paths import absolute, cache_folder, inner_path, join
from bsssl.storage.reading import NotAFile, exists, is_folder, open_file, open_read, read_whole, require
from bsssl.storage.remote import is_remote, read_range, remote_filesystem
from bsssl.storage.writing import atomic_write, remove_leftovers, require_writable, unwritable, write_text

__all__ = [
    "TABLES",
    "NotAFile",
    "absolute",
    "as_json",
    "atomic_write",
    "cache_folder",
    "digest",
    "exists",
    "fingerprint",
    "glob",
    "inner_path",
    "is_folder",
    "is_remote",
    "join",
    "open_file",
    "open_read",
    "parse_json",
    "read_json",
    "read_json_lines",
    "read_ledger",
    "read_range",
    "read_whole",
    "remote_filesystem",
    "remove_leftovers",
    "require",
    "require_writable",
    "state",
    "table_format",
    "unwritable",
    "walk",
    "walk_folders",
    "write_csv",
    "write_json",
    "write_json_lines",
    "write_ledger",
    "write_text",
]
