"""From what a user writes to a store."""

import os
from urllib.parse import unquote

from codistill import plugins
from codistill.stores.base import Store
from codistill.stores.directory import DirectoryStore
from codistill.stores.urls import HALF_SCHEME, SCHEME


def open_store(store: str | os.PathLike[str] | Store, *, is_read_only: bool = False) -> Store:
    """Return the store that a path or URL names, or the store itself.

    ============================  ====================================================
    ``/path``, ``file:///path``   a folder that all peers see
    ``s3://bucket/path``          S3 and what speaks its protocol; extra ``s3``
    ``gs://bucket/path``          Google Cloud Storage; extra ``gcs``
    ``sftp://host/path``          a folder on an SSH server; extra ``sftp``
    ``memory://name``             this process, for peers that are its threads
    ============================  ====================================================

    Other packages add schemes as entry points of the group ``codistill.stores``, each a class or function
    that is called with the URL and returns a `Store`, whether it is to be read only or not.

    Credentials come from where the backend finds them: for S3 the environment, the AWS configuration or
    the machine's role; for GCS the application default credentials; for SFTP the agent, the keys in
    ``~/.ssh`` or the URL, as in ``sftp://user:password@host/path``.

    Args:
        store: A path, a URL, or a `Store`, which is returned as it is.
        is_read_only: Only look: nothing is made or written.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, a URL of another kind, or one with a slash too few; or if the package that
            declares its scheme cannot be used.
        ExtraMissingError: If the package that speaks to this kind of store is not installed.
        StoreError: If the store cannot be reached, or not be written to, or has no atomic create; or, if
            it is to be read only, is not there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     open_store(f"file://{folder}").describe() == folder
        True
        >>> open_store("memory://run-7").describe()
        'memory://run-7'
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise TypeError(f"store must be a path, a URL or a Store, got {type(store).__name__}.")
    path = os.fspath(store)
    if not isinstance(path, str):
        raise TypeError("store must be a path of characters, got one of bytes. Decode it with os.fsdecode.")
    if not path:
        raise ValueError("store must name a folder, got ''. Use '.' for the working directory.")
    match = SCHEME.match(path)
    if match is None:
        _refuse_half_a_url(path)
        return DirectoryStore(path, is_read_only=is_read_only)
    scheme = match[1].lower()
    if scheme == "file":
        return DirectoryStore(_path_of_file_url(path), is_read_only=is_read_only)
    return _open_url(scheme, path, is_read_only=is_read_only)


def _refuse_half_a_url(path: str) -> None:
    match = HALF_SCHEME.match(path)
    if match is not None:
        raise ValueError(
            f"store must be a path or a URL, got one slash after '{match[1]}:'. Write '{match[1]}://' (a "
            f"pathlib.Path cannot hold a URL), or './{match[1]}:/' for a folder of that name."
        )


def _open_url(scheme: str, url: str, *, is_read_only: bool) -> Store:
    # Imported here: fsspec and what it brings are nothing to a run that meets in a folder.
    from codistill.stores.remote import REMOTE_SCHEMES, RemoteStore
    from codistill.stores.sftp import SFTP_SCHEMES, SftpStore

    if scheme in SFTP_SCHEMES:
        return SftpStore(url, is_read_only=is_read_only)
    if scheme in REMOTE_SCHEMES:
        return RemoteStore(url, is_read_only=is_read_only)
    # The URL itself stays out of the messages: it may hold credentials.
    plugin = plugins.find("codistill.stores", scheme)
    if plugin is None:
        ours = {"file", *SFTP_SCHEMES, *REMOTE_SCHEMES}
        known = ", ".join(f"{name}://" for name in sorted({*ours, *plugins.names("codistill.stores")}))
        raise ValueError(
            f"store must be a path, a Store, or a URL of {known}, got a '{scheme}://' URL. Mount it and give "
            "its path, or pass a Store of your own that passes codistill.testing.StoreContract."
        )
    opener = plugin.load()
    if not callable(opener):
        raise plugin.refusal("be a class or function that takes a URL", opener)
    opened = opener(url)
    if not isinstance(opened, Store):
        raise plugin.refusal("return a Store", opened)
    return opened


def _path_of_file_url(url: str) -> str:
    host, _, path = url.partition("://")[2].partition("/")
    if host.lower() not in ("", "localhost") or not path:
        raise ValueError(
            "store must be 'file:///' and an absolute path, got another host. Give a plain path."
        )
    return unquote(f"/{path}")
