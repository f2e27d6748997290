"""Entries of zip files."""

from zipfile import ZIP_STORED, ZipInfo


def zip_entry(name: str, compression: int = ZIP_STORED) -> ZipInfo:
    """An entry that is the same wherever and whenever it is written, as from 1980, the first year that zip files know.

    A board without a battery has an earlier one until it has seen a network, and `zipfile` then refuses to write.
    """
    entry = ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, wherever this runs
    entry.compress_type = compression
    return entry
