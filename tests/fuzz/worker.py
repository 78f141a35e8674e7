"""A process that reads mutated files and notes its progress in a file, so that its death is explained."""

import os
import random
import resource
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

# Growth of memory beyond what right files need. The readers allow 256 MiB for a small file, some of them twice.
MEMORY_BYTES = 1 << 30
RESULTS = ("read", "refused", "trace", "memory", "crash", "hang")
# Columns of the progress: the next input, the input after the last one, and a count for each result.
NEXT, LAST = len(RESULTS), len(RESULTS) + 1


def main() -> None:
    """Reads the inputs that the progress of each kind still lacks."""
    path, seed, *names = sys.argv[1:]
    from keras_netvlad.cli.errors import is_expected
    from tests.fuzz.kinds import Refused, make_kinds

    progress = np.memmap(path, "int64", "r+", shape=(len(names), len(RESULTS) + 2))

    def is_sentence(error: Exception) -> bool:
        is_check = isinstance(error, Refused) or (is_expected(error) and not isinstance(error, MemoryError))
        return is_check and "\n" not in str(error) and (kind.path.name in str(error) or not kind.names_file)

    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        kinds = make_kinds(Path(folder))
        for name, row in zip(names, progress, strict=True):
            kind = kinds[name]
            if row[NEXT] == row[LAST]:
                continue
            for content in kind.seeds:
                kind.path.write_bytes(content)
                kind.read()  # a right file is read
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            while row[NEXT] < row[LAST]:
                number = int(row[NEXT])
                row[NEXT] += 1
                draw = random.Random(f"{seed}/{name}/{number}")
                kind.mutate(draw.choice(kind.seeds), kind.seeds, draw, kind.path)
                result = "read"
                try:
                    kind.read()
                except Exception as error:
                    result = "refused" if is_sentence(error) else "trace"
                    if result == "trace":
                        trace = "".join(traceback.format_exception(error))[-3000:]
                        print(f"{name}, input {number}:\n{trace}", flush=True)
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
                if grown > MEMORY_BYTES:
                    peak += grown // 1024
                    result = "memory"
                    print(f"{name}, input {number}: memory grew by {grown:,} bytes", flush=True)
                row[RESULTS.index(result)] += 1


if __name__ == "__main__":
    main()
