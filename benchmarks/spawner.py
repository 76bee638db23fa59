"""A worker that starts a program for each line it is sent, and answers with the nanoseconds: spawner.py PROGRAM [ARGUMENT...]"""

import os
import sys
import time

null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
argv = sys.argv[1:]
for _ in sys.stdin:
    start = time.perf_counter_ns()
    status = os.waitpid(os.posix_spawnp(argv[0], argv, os.environ, file_actions=null), 0)[1]
    taken = time.perf_counter_ns() - start
    if status:
        sys.exit(f"{argv[0]} ended with status {status}")
    print(taken, flush=True)
