"""Watching how a command makes processes, threads and namespaces: `ramet trace`.

calls: which calls, their numbers, and the filter that stops a tracee at them. collect: run a command under
ptrace. records: what the C core writes down. tree: who made whom. why: reasons for refusals. render: text.
"""
