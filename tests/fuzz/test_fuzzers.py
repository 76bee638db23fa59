"""The C code that reads bytes of others, fuzzed; and each fuzzer shown a fault that it must find.

Part of `make sanitize`, which gives the seconds: `RAMET_FUZZ=12`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from needs import need, only

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("RAMET_FUZZ")
TARGETS = "plan", "plain", "trace", "msgpack", "init"
#: For each target a check of ours that is left out: what stood there, and what stands there now.
FAULTS = {
    "plan": [
        ("steps.c", "width <= data_size - offset", "width <= data_size - offset + 8"),
        ("steps.c", "(uint64_t)header->n_relocs * sizeof(uint32_t) + header->data_size;", "header->data_size;"),
        ("spawn.c", "programs->gate <= last_gate", "programs->gate <= last_gate + 4"),
        ("spawn.c", "(long long)data_size - (int)sizeof value", "(long long)data_size"),
    ],
    "plain": [("lowlevel.c", "kind == PLAIN_RESULT && arg >= i", "kind == PLAIN_RESULT && arg > 1 << 20")],
    "trace": [
        ("trace.c", "|| full(t))\n            return;", ")\n            return;"),
        ("trace.c", "TAIL_MAX - length,", "TAIL_MAX,"),
    ],
    "msgpack": [
        ("msgpack.c", "if (length > left) /*", "if (length > left + 1) /*"),
        ("msgpack.c", "if (++depth == DEPTH)", "if (++depth == DEPTH + 1)"),
    ],
    "init": [("init.c", "INIT_SIGNALS, &info, sizeof info)", "INIT_SIGNALS, &info, sizeof info + 8)")],
}


@pytest.fixture(autouse=True)
def asked_for():
    only(SECONDS, "in make sanitize")
    need(shutil.which("clang"), "clang with its libFuzzer: apt-get install clang libclang-rt-14-dev")


def fuzz(target, seconds, build, csrc=ROOT / "csrc"):
    return subprocess.run(
        [ROOT / "scripts/fuzz", str(seconds), target],
        capture_output=True,
        text=True,
        timeout=float(seconds) + 120,
        env={**os.environ, "BUILD": str(build), "CSRC": str(csrc)},
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_make_it_read_or_write_out_of_bounds(target, tmp_path):
    """RAMET_FUZZ seconds of bytes made from real ones find nothing that the sanitizers or the fuzzer's own checks object to."""
    done = fuzz(target, SECONDS, tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    executions = int(done.stdout.partition("executions: ")[2].split()[0])
    assert executions > 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("target", "fault"), [(name, n) for name in TARGETS for n in range(len(FAULTS[name]))])
def test_control_a_fault_is_found(target, fault, tmp_path):
    """With one of our checks left out or wrong by a little, the same fuzzer finds it."""
    file, was, now = FAULTS[target][fault]
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    source = tmp_path / "csrc" / file
    text = source.read_text()
    assert text.count(was) == 1
    source.write_text(text.replace(was, now))
    done = fuzz(target, 120, tmp_path / "build", tmp_path / "csrc")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SUMMARY: " in done.stdout or "deadly signal" in done.stdout
