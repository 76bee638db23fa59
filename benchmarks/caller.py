"""A caller that holds memory: python caller.py MEBIBYTES. For each line on stdin, one ramet.run; prints nanoseconds."""

import mmap
import sys
import time

import ramet

MEBIBYTE = 1 << 20


def main() -> None:
    """Touch every page, then serve."""
    held = mmap.mmap(-1, max(1, int(sys.argv[1])) * MEBIBYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page = b"x" * MEBIBYTE
    for _ in range(int(sys.argv[1])):
        held.write(page)
    for _ in sys.stdin:
        start = time.perf_counter_ns()
        ramet.run(["/bin/true"], check=True)
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
