"""Snapshots as bytes and as objects: keys, documents and the codec. Nothing here reads or writes a store."""

from codistill.snapshots.info import SnapshotInfo

__all__ = ["SnapshotInfo"]
