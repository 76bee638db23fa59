"""A Dask cluster on loopback, and what comes of isolated functions that it is sent: dask_driver.py DIRECTORY COUNT

A scheduler and two workers, each a process of its own, over TCP. A worker is killed in the middle. Prints one JSON object.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import shipped

import ramet


def start(directory, name, *arguments):
    """A part of the cluster, as its command line starts it."""
    log = open(directory / f"{name}.log", "wb")
    argv = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
    return subprocess.Popen(
        [*argv, "--scheduler-file", str(directory / "scheduler.json")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )


def start_worker(directory, name):
    """Two threads, and no nanny: what is killed stays killed."""
    options = ("--nthreads", "2", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--memory-limit", "0")
    local = ("--local-directory", str(directory / name))
    return start(directory, name, "dask_worker", *options, "--name", name, *local, "--death-timeout", "120")


def main(directory, count):
    from distributed import Client, as_completed

    parts = {
        "scheduler": start(
            directory, "scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
    }
    try:
        for name in ("one", "two"):
            parts[name] = start_worker(directory, name)
        client = Client(scheduler_file=str(directory / "scheduler.json"), timeout=120)
        try:
            return drive(client, parts, count, directory, as_completed)
        finally:
            client.close()
    finally:
        for part in parts.values():
            part.kill()
            part.wait()


def drive(client, parts, count, directory, as_completed):
    client.wait_for_workers(2, timeout=120)
    pids = client.run(os.getpid)
    found = {"pids": len(set(pids.values()) - {os.getpid()}), "protocols": sorted({at.split(":")[0] for at in pids})}
    found["doctor"] = [report["works"] for report in client.run(doctor).values()]
    found["direct"] = direct(client)

    futures, wrong = {}, []
    for n in range(count):
        fn, wanted = shipped.job(n)
        # Each is a call of its own: the same function and argument twice would be one task.
        futures[client.submit(fn.run, n, pure=False, retries=0)] = n, wanted
    done, killed = 0, None
    for future, result in as_completed(list(futures), with_results=True, raise_errors=False):
        n, wanted = futures[future]
        # By what has come: a future whose worker is killed a moment later is no longer "finished".
        told = isinstance(result, ramet.FunctionResult)
        got = shipped.verdict(result) if told else (future.status, repr(result), None)
        if tuple(got) != tuple(wanted):
            wrong.append([n, list(got), list(wanted)])
        done += 1
        if done == count // 4:
            parts["one"].kill()
            killed = time.monotonic()
            parts["one"].wait()
        if done == count // 2:
            parts["three"] = start_worker(directory, "three")
    found.update(done=done, wrong=wrong[:10], killed=killed is not None, workers=workers(client, {"two", "three"}))
    return found


def workers(client, wanted):
    """The names of those that are there, as soon as they are the wanted: the third may be on its way still."""
    deadline = time.monotonic() + 120
    while (found := {worker["name"] for worker in client.scheduler_info()["workers"].values()}) != wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return sorted(found)


def doctor():
    """What `ramet doctor` says on a worker."""
    done = subprocess.run([sys.executable, "-m", "ramet", "doctor", "--json"], stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)


def direct(client):
    """Called rather than run: values, and exceptions that come all the way as themselves."""
    found = {"value": client.submit(shipped.square, 7).result(), "where": client.submit(shipped.where).result()}
    for fn in (shipped.raises, shipped.loops, shipped.leaves):
        error = client.submit(fn, 5, pure=False).exception()
        found[type(error).__name__] = str(error)
    here = ramet_isolated_here()
    found["of main"] = client.submit(here, 4).result()
    found["method"] = client.submit(shipped.Scale(3).of, 5).result()
    return found


def ramet_isolated_here():
    """One that no worker can import: a lambda of this program."""
    factor = 10
    return ramet.isolated(lambda n: n * factor, timeout=shipped.GENEROUS)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
