"""Each experiment's conclusion, as this user and on this kernel; and that it would fail without what it is about."""

import inspect
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from left import when, workers

import ramet
from needs import KERNEL, as_root, as_user, need
from ramet import lab
from ramet.errors import SpecError, TimeoutExpired
from ramet.flags import CLONE
from ramet.lab.evidence import from_json, plain
from ramet.lab.experiment import CONFIRMED, CORRECTED, Seen

DOCS = Path(__file__).parents[2] / "docs" / "lab.md"
NEWEST = ("autoreap", "nnp", "autokill", "empty-mounts")
BY_FLAG = [
    pytest.param(name, marks=[pytest.mark.vm] if name in NEWEST else []) for name in lab.NAMES if lab.load(name).without
]


def seen_in(observations):
    """The observations as `conclude` takes them."""
    seen = Seen()
    for who, what, value in observations:
        (seen.caller if who == "caller" else seen.child)[what] = value
    return seen


@pytest.mark.vm
@pytest.mark.parametrize("name", lab.NAMES)
def test_conclusion(settled, name):
    """What the experiment concludes follows from what was seen here, every part of it."""
    evidence = settled(name)
    assert evidence.missing == ""
    assert [finding.statement for finding in evidence.findings if not finding.holds] == []
    assert evidence.holds
    assert lab.load(name).answer == evidence.conclusion


@pytest.mark.vm
@pytest.mark.parametrize("name", lab.NAMES)
def test_control_alone_concludes_nothing(settled, name):
    """The control in the experiment's place: the conclusion is not drawn from it."""
    control = seen_in(settled(name).control)
    assert not all(holds for _, holds in lab.load(name).conclude(control, control))


@pytest.mark.parametrize("name", BY_FLAG)
def test_sabotaged(settled, name):
    """Run without the flag that it is about, the experiment does not hold, and says what is not true."""
    settled(name)
    evidence = lab.run(name, flags=lab.load(name).control_flags)
    assert not evidence.holds
    wrong = [finding.statement for finding in evidence.findings if not finding.holds]
    assert wrong
    assert evidence.conclusion.startswith("Not so here.")
    assert all(statement in evidence.conclusion for statement in wrong)


@pytest.mark.parametrize("name", [name for name in lab.NAMES if lab.load(name).since[:2] > KERNEL])
def test_flags_of_a_later_kernel(everything, name):
    """Where the kernel is older than a flag, the answer is EINVAL, said plainly, and the control has run."""
    evidence = everything[name]
    assert not evidence.holds
    assert "needs Linux 7.1" in evidence.conclusion
    assert any(str(each.value).startswith("EINVAL") for each in evidence.observations)
    assert evidence.control


@as_root
@pytest.mark.parametrize("name", [name for name in lab.NAMES if lab.load(name).needs or lab.load(name).ground])
def test_root_needs_no_user_namespace(everything, name):
    """Root's experiments run as they are, or in the namespaces that keep the host as it is."""
    experiment = lab.load(name)
    assert "user" not in everything[name].ground
    assert bool(experiment.ground) == bool(everything[name].ground)


@as_user
@pytest.mark.parametrize("name", [name for name in lab.NAMES if lab.load(name).needs == "CAP_SYS_ADMIN"])
def test_an_ordinary_user_gets_a_user_namespace(everything, name):
    """Where an experiment needs CAP_SYS_ADMIN, an ordinary user's runs in a user namespace, and says so."""
    assert "user" in everything[name].ground
    assert everything[name].uid == os.geteuid()


def test_who_was_where(settled):
    """The evidence tells in which kinds of namespace the child was apart, by their inode numbers."""
    here = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "net", "uts")}
    pid = settled("pid").namespaces
    assert pid.own == ("pid",)
    assert pid.caller["pid"] == here["pid"] != pid.child["pid"]
    assert pid.caller["net"] == here["net"] == pid.child["net"] == pid.control["net"]
    assert pid.control["pid"] == here["pid"]
    assert settled("net").namespaces.own == ("net",)
    assert settled("memory").namespaces.own == ()


def test_every_flag_is_shown():
    """Each flag of clone is what some experiment is about: its control leaves it out, or it is what clone3 adds."""
    about = CLONE(0)
    for name in lab.NAMES:
        about |= lab.load(name).without
    assert [flag for flag in CLONE if not flag & about] == []


def test_numbers_and_names():
    """Numbers run from 1 in the order of the list, names are those of the list, and the first six are the table's."""
    experiments = [lab.load(name) for name in lab.NAMES]
    assert list(range(1, len(lab.NAMES) + 1)) == [each.number for each in experiments]
    assert list(lab.NAMES) == [each.name for each in experiments]
    table = [
        CLONE.VM,
        CLONE.VM | CLONE.FS,
        CLONE.VM | CLONE.NEWPID,
        CLONE.VM | CLONE.FS,  # and CLONE_FILES beside it, which tells
        CLONE.VM | CLONE.NEWNET,
        CLONE.VM | CLONE.NEWNS,
    ]
    assert table == [each.flags & ~CLONE.FILES for each in experiments[:6]]
    assert {CONFIRMED, CORRECTED} == {each.verdict for each in experiments}


def test_the_source_shown_is_what_ran(everything):
    """The program on the page is cut from the file that ran, line by line."""
    for name, evidence in everything.items():
        run = lab.load(name).run
        assert textwrap.dedent(inspect.getsource(run)) == evidence.source
        assert inspect.getfile(run).endswith(f"/{evidence.file}")
        assert evidence.file == f"ramet/lab/experiments/{name.replace('-', '_')}.py"
        assert evidence.source in Path(inspect.getfile(run)).read_text()


def test_evidence_survives_json(everything):
    """Evidence made of its JSON is the same evidence, and flags come with their meaning."""
    for evidence in everything.values():
        told = evidence.as_json()
        assert from_json(told) == evidence
        assert len(told["flags_explained"]) == bin(evidence.flags).count("1") + bool(evidence.exit_signal)


def test_ps_reads_proc():
    """What experiment 3 calls ps is what ps(1) prints: in a fresh /proc the child and ps itself alone."""
    need(os.path.exists("/usr/bin/ps") or os.path.exists("/bin/ps"), "ps (procps)")

    def child():
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        return subprocess.run(["ps", "-e", "-o", "pid="], capture_output=True, text=True).stdout.split()

    flags = CLONE.VM | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWNS
    found = ramet.call(child, flags=flags, map_uid=0)
    assert found[0] == "1"
    assert len(found) == 2
    outside = subprocess.run(["ps", "-e", "-o", "pid="], capture_output=True, text=True).stdout.split()
    assert str(os.getpid()) in outside


def test_from_a_program_with_threads():
    """run may be called by a thread: the experiments that fork are in a process of their own."""
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(lab.run("memory").holds))
    thread.start()
    thread.join()
    assert found == [True]


def test_too_slow_an_experiment():
    """One that does not end in time is ended, with all it started, and TimeoutExpired names it."""
    during = []
    lab.run_all(["memory", "directory"], progress=lambda *_: during.append(workers()))
    assert any(during), "the control: while it runs, its process is seen"
    assert when(workers, set()) == set()
    with pytest.raises(TimeoutExpired, match="experiment vfork still runs after"):
        lab.run("vfork", timeout=0.02)
    assert when(workers, set()) == set()


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (3, "pid"),
        ("3", "pid"),
        ("PID", "pid"),
        ("exit_signal", "exit-signal"),
        ("CLONE_NEWNET", "net"),
        ("vm", "memory"),
    ],
)
def test_find(wanted, name):
    """An experiment is found by number, by name, and by the flag that it is about."""
    assert name == lab.find(wanted)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("memry", "did you mean memory?"),
        ("cgrup", "did you mean cgroup"),
        ("auto", "autoreap, autokill or "),
        ("xyzzy", "ramet lab lists them"),
        (0, "experiments 1 to"),
        ("99", "experiments 1 to"),
        ("-1", "ramet lab lists them"),
        ("", "ramet lab lists them"),
    ],
)
def test_no_such_experiment(wanted, said):
    """One that there isn't is refused with the nearest names."""
    with pytest.raises(SpecError, match="experiment") as caught:
        lab.find(wanted)
    assert said in str(caught.value)


def test_what_can_be_observed():
    """Observations are what JSON can hold; anything else is a mistake in an experiment, and said."""
    assert plain({3, 1}) == [1, 3]
    assert plain((b"a\xff", None, True, CLONE.VM)) == ["a\\xff", None, True, "CLONE_VM"]
    with pytest.raises(TypeError, match="can't be"):
        plain(object())


def test_the_page_of_the_docs_runs():
    """The Python in docs/lab.md runs as it stands, and its first and last experiment end as it says."""
    (block,) = [part.partition("```")[0] for part in DOCS.read_text().split("```python")[1:]]
    names = {}
    exec(compile(block, str(DOCS), "exec"), names)
    assert names["evidence"].holds
    assert 'lab.run("memory", flags=0)' in block
    assert not lab.run("memory", flags=0).holds


def test_documented():
    """docs/lab.md has a line for each experiment, with number and name."""
    text = DOCS.read_text()
    missing = [name for n, name in enumerate(lab.NAMES, 1) if f"| {n} | `{name}` |" not in text]
    assert missing == []
