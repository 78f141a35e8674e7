"""`check_declared_bytes`: refuses a file that declares far more data than it holds, before memory is allocated."""

import os

# Real files stay below: padding of zeros compresses by up to 1000, but never fills a file alone.
MAX_EXPANSION = 100
# Small files may expand to this size in any case.
ALWAYS_ALLOWED_BYTES = 256 << 20


def check_declared_bytes(path: str | os.PathLike[str], num_bytes: int, content: str = "arrays") -> None:
    """Raises if the declared size of a file's content is implausible for the size of the file.

    A compressed archive or a header of a few bytes can declare any size. Reading it would take that much memory.

    Args:
        path: Path of the file.
        num_bytes: Number of bytes that the content takes in memory, as the file declares it.
        content: Plural noun for the message.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad.base.declared_sizes import check_declared_bytes
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     check_declared_bytes(file.name, 1 << 20)
    ...     check_declared_bytes(file.name, 1 << 40)
    Traceback (most recent call last):
    ValueError: the file has 0 bytes and declares arrays of 1,099,511,627,776 bytes, more than 268,435,456

    Raises:
        ValueError: If the content takes more than 256 MiB and more than 100 times the size of the file.
    """
    size = os.stat(path).st_size
    limit = max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * size)
    if num_bytes > limit:
        raise ValueError(
            f"the file has {size:,} bytes and declares {content} of {num_bytes:,} bytes, more than {limit:,}"
        )
