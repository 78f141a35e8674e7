"""Plants faults in copies of the repository and prints which of them the tests notice: `python -m tests.mutation`."""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# Before TensorFlow is imported: on a few cores, its threads would wait for each other.
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from mutants import MUTANTS  # noqa: E402
from runner import EQUIVALENT, KILLED, NOT_APPLICABLE, SURVIVED, TIMED_OUT, BrokenTestsError, run  # noqa: E402

ROOT = Path(__file__).parents[2]


def main(arguments=None):
    """Returns the exit code: 0 if every fault was noticed, 1 if one was not, 2 if the table or the tests are broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only mutants whose file or text contains one of these words")
    parser.add_argument("--seconds", type=int, default=120, help="time limit of the tests of one mutant (120)")
    parser.add_argument("--check", action="store_true", help="only check that every mutant can still be planted")
    options = parser.parse_args(arguments)
    mutants = [m for m in MUTANTS if not options.words or any(word in f"{m} {m.source}" for word in options.words)]
    stale = [mutant for mutant in mutants if mutant.is_stale(ROOT)]
    for mutant in stale:
        print(f"stale: {mutant}. The text must occur once in the file, and the tests must exist.")
    if stale or options.check or not mutants:
        print(f"{len(mutants)} mutants, {len(stale)} stale")
        return 2 if stale or not mutants else 0
    counts: Counter[str] = Counter()
    try:
        for mutant, result in run(ROOT, mutants, options.seconds):
            counts[result] += 1
            print(f"{result}: {mutant}" + (f" ({mutant.equivalent})" if mutant.equivalent else ""), flush=True)
    except BrokenTestsError as error:
        print(error)
        return 2
    killed = counts[KILLED] + counts[TIMED_OUT]
    judged = killed + counts[SURVIVED]
    score = f"{killed / judged:.1%}" if judged else "none"
    print(
        f"{killed} killed ({counts[TIMED_OUT]} by the time limit), {counts[SURVIVED]} survived, "
        f"{counts[NOT_APPLICABLE]} not applicable, {counts[EQUIVALENT]} equivalent; score {score}"
    )
    return 1 if counts[SURVIVED] else 0


if __name__ == "__main__":
    sys.exit(main())
