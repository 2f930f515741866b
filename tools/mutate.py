"""Mutation testing: does any test go red when a line of src/reverie is wrong?

    python tools/mutate.py record                       # once: which test runs which line, and how long it takes
    python tools/mutate.py run --count 300 --seed 0 --out benchmarks/results/mutants.jsonl
    python tools/mutate.py run ... --again              # the survivors once more, after new tests (record first)
    python tools/mutate.py show --out FILE              # shares per room and the survivors, without running anything

`record` runs every test file in a process of its own under coverage with one context a test, and keeps what it found in
.mutants/ (ignored by git); it goes on where it stopped and repeats only files that changed since.

`run` draws mutants, every room by its number of places, and gives each to the tests that run its line: a few quick ones,
then all, cheap and various ones first; with a budget of 30 s or more also the other tests of contract files among these
(they share fitted models: the one that ran the line need not be the one that checks it). `--budget` caps the recorded
seconds of tests a mutant may use; how many were left out is in its result. A mutant whose tests take four times their
recorded time and 20 s more is killed. Lines that run at import alone are given to the tests of their class, else file, else
room. Not mutated: annotations, what is raised (messages), f-strings, patterns. Mutants live in a temporary copy of src, one
forked process each. Results are appended to --out, one JSON line a mutant; those that stand there are skipped. At the end
the tests that killed are run on the unchanged code, so that no flaky test passes for a good one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import coverage
import pytest
from mutations import Site, draw

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "reverie"
STATE = ROOT / ".mutants"
WARM = ["torch", "torch.multiprocessing", "torch.distributed", "numpy", "scipy.stats", "sklearn.mixture", "pandas"]
WARM += ["pydantic", "PIL.Image", "matplotlib.pyplot", "safetensors.torch", "rich.console", "tyro", "jinja2"]
QUIET = ["-q", "-p", "no:cacheprovider", "-p", "no:pytest_cov", "-p", "no:xdist", "--hypothesis-seed=0", "--tb=line"]
# A child of a test is another process: it writes coverage of its own, under the context of the test that started it.
CHILD = """
import os
if os.environ.get("MUTATE_CONTEXT"):
    import atexit, coverage, multiprocessing.util
    _it = coverage.Coverage(os.environ["MUTATE_DATA"], data_suffix=True, source=[os.environ["MUTATE_SOURCE"]],
                            config_file=False, context=os.environ["MUTATE_CONTEXT"], messages=False)
    _it.start()
    def _end():
        _it.stop()
        _it.save()
    atexit.register(_end)
    multiprocessing.util.Finalize(None, _end, exitpriority=100)
"""


OVERHEAD, OPENING = 0.03, 0.3
"""Seconds that pytest needs for a test beside the test's own, and for a file of them."""
SIBLINGS = 30
"""The least budget with which the other tests of contract files are tried too: most of them fit a model first."""


class Recorder:
    """A pytest plugin: every test is a context of its own; its processor seconds and whether it passed are kept."""

    def __init__(self, cov: coverage.Coverage) -> None:
        self.cov, self.seconds, self.passed = cov, dict[str, float](), set[str]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        os.environ["MUTATE_CONTEXT"] = item.nodeid
        self.cov.switch_context(item.nodeid)
        begin = sum(os.times()[:4])
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = round(sum(os.times()[:4]) - begin, 2)
            self.cov.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.failed:
            self.passed.discard(report.nodeid)


class Chosen:
    """A pytest plugin: only the chosen tests, in the order given; remembers the first that failed."""

    def __init__(self, order: list[str], told: Path) -> None:
        self.place, self.told = {name: i for i, name in enumerate(order)}, told

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(report)

    def _tell(self, report: Any) -> None:
        with self.told.open("a") as file:
            file.write(json.dumps({"by": report.nodeid}) + "\n")


def forked(work: Callable[[], int], log: Path, cpu: float | None = None) -> int | str:
    """`work` in a child of this warm process: its exit status, or "timeout"."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if cpu:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 5))
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + 4 * cpu if cpu else float("inf")  # the machine may be busy with other things
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() > end:
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        os.waitpid(pid, 0)
        return "timeout"
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def warm_up() -> None:
    """Import what costs seconds, but nothing of reverie: that every child does for itself."""
    for name in WARM:
        importlib.import_module(name)


# ---- record


def record(arguments: argparse.Namespace) -> None:
    warm_up()
    (STATE / "site").mkdir(parents=True, exist_ok=True)
    (STATE / "site" / "sitecustomize.py").write_text(CHILD)
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    for file in files:
        folder, stamp = shard(file), hashlib.sha256(file.read_bytes()).hexdigest()
        found = folder / "tests.json"
        if found.exists() and json.loads(found.read_text())["stamp"] == stamp and not arguments.fresh:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begin = time.monotonic()
        forked(lambda file=file, folder=folder, stamp=stamp: recording(file, folder, stamp), folder / "log")  # type: ignore[misc]
        count = len(json.loads(found.read_text())["seconds"]) if found.exists() else "no result of the"
        print(f"{file.relative_to(ROOT)}: {count} tests, {time.monotonic() - begin:.0f} s", flush=True)


def shard(file: Path) -> Path:
    return STATE / "record" / str(file.relative_to(ROOT / "tests").with_suffix("")).replace("/", ".")


def recording(file: Path, folder: Path, stamp: str) -> int:
    os.environ.update(MUTATE_DATA=str(folder / "coverage"), MUTATE_SOURCE=str(SOURCE), PYTHONPATH=str(STATE / "site"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(STATE / "hypothesis")
    cov = coverage.Coverage(
        folder / "coverage", data_suffix=True, source=[str(SOURCE)], config_file=False, concurrency="thread"
    )
    cov.start()
    plugin = Recorder(cov)
    pytest.main([*QUIET, str(file)], plugins=[plugin])
    cov.stop()
    cov.save()
    kept = {"stamp": stamp, "seconds": plugin.seconds, "passed": sorted(plugin.passed)}
    (folder / "tests.json").write_text(json.dumps(kept))
    return 0


class Record:
    """What `record` found: the seconds of tests that passed, and the tests of lines."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.data: list[coverage.CoverageData] = []
        self.lines: dict[Path, dict[int, set[str]]] = {}
        for found in sorted((STATE / "record").glob("*/tests.json")):
            kept = json.loads(found.read_text())
            self.seconds |= {name: kept["seconds"][name] + OVERHEAD for name in kept["passed"]}
            for part in found.parent.glob("coverage.*"):
                data = coverage.CoverageData(str(part))
                with contextlib.suppress(coverage.exceptions.DataError):  # of a process that was killed while it wrote
                    data.read()
                    self.data.append(data)
        if not self.seconds:
            sys.exit("nothing is recorded yet: run `python tools/mutate.py record` first")

    def of_file(self, file: Path) -> dict[int, set[str]]:
        if file not in self.lines:
            lines: dict[int, set[str]] = collections.defaultdict(set)
            for data in self.data:
                for line, names in data.contexts_by_lineno(str(file)).items():
                    lines[line].update(name for name in names if name in self.seconds)
            self.lines[file] = dict(lines)
        return self.lines[file]

    def of_lines(self, file: Path, lines: Iterable[int]) -> set[str]:
        found = self.of_file(file)
        return set().union(*(found.get(line, set()) for line in lines))

    def touching(self, site: Site) -> list[str]:
        """The tests that run a site, fastest first; the first of its ever wider surroundings that any test runs."""
        names: set[str] = set()
        for lines in site.watch:
            names = names or self.of_lines(site.file, lines)
        if not names and site.imported:
            for file in sorted(site.file.parent.glob("*.py")):
                names |= self.of_lines(file, self.of_file(file))
        return sorted(names, key=lambda name: (self.seconds[name], name))

    def siblings(self, names: list[str]) -> list[str]:
        """The other tests of the contract files among `names`, fastest first."""
        files = {name.partition("::")[0] for name in names if "tests/contract/" in name}
        others = {name for name in self.seconds if name.partition("::")[0] in files} - set(names)
        return sorted(others, key=lambda name: (self.seconds[name], name))


# ---- run


def varied(names: list[str], site: Site) -> list[str]:
    """The same tests, but no more than three settings of a parametrised one before every other has had its turn, and in
    a turn those first whose file is named after the module or its room."""
    words = [word for part in site.file.relative_to(SOURCE).with_suffix("").parts for word in part.split("_")]
    seen: collections.Counter[str] = collections.Counter()
    turns: list[tuple[int, int, int, str]] = []
    for name in names:
        file, test = name.partition("::")[0], name.partition("[")[0]
        turns.append((seen[test] // 3, -sum(word.rstrip("s") in file for word in words), len(turns), name))
        seen[test] += 1
    return [name for *_, name in sorted(turns)]


def portions(record: Record, names: list[str], site: Site, budget: float) -> tuple[list[list[str]], int]:
    """A few quick tests of at most six files, then the rest, files together; and how many the budget left out."""
    quick: list[str] = []
    rest: list[str] = []
    files: set[str] = set()
    names, spent = varied(names, site), 0.0
    for name in names:
        file = name.partition("::")[0]
        cost = record.seconds[name] + OPENING * (file not in files)
        if len(quick) < 40 and (file in files or len(files) < 6) and spent + cost < 6:
            files.add(file)
            quick.append(name)
            spent += cost
    chosen, files = set(quick), set()  # the rest is another process, which opens its files anew
    for name in [*names, *(record.siblings(names) if budget >= SIBLINGS else [])]:
        file = name.partition("::")[0]
        cost = record.seconds[name] + OPENING * (file not in files)
        if name not in chosen and (spent + cost <= budget or not (quick or rest)):
            files.add(file)
            rest.append(name)
            spent += cost
    first = {name.partition("::")[0]: place for place, name in reversed(list(enumerate(rest)))}
    rest.sort(key=lambda name: first[name.partition("::")[0]])
    left = len(set(names) - set(quick) - set(rest))
    return [part for part in (quick, rest) if part], left


def testing(names: list[str], copy: Path, told: Path) -> int:
    """In a child: the chosen tests against the copy of src."""
    sys.path.insert(0, str(copy))
    os.environ.update(PYTHONPATH=str(copy), HYPOTHESIS_STORAGE_DIRECTORY=str(copy / "hypothesis"))
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))
    more = [] if told.name == "control" else ["-x"]
    return int(pytest.main([*QUIET, *more, *files], plugins=[Chosen(names, told)]))


def attempt(site: Site, record: Record, copy: Path, budget: float) -> dict[str, Any]:
    """One mutant, and what became of it."""
    names = record.touching(site)
    result: dict[str, Any] = {**site.told(ROOT), "status": "survived" if names else "not covered", "tests": 0}
    if not names:
        return result
    target = copy / site.file.relative_to(SOURCE.parent)
    begin = time.monotonic()
    parts, result["left_out"] = portions(record, names, site, budget)
    try:
        target.write_bytes(site.applied())
        for cached in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
            cached.unlink()
        for part in parts:
            told, result["tests"] = copy / "told", result["tests"] + len(part)
            told.unlink(missing_ok=True)
            limit = 4 * sum(record.seconds[name] for name in part) + 20
            status = forked(lambda part=part, told=told: testing(part, copy, told), STATE / "log", limit)  # type: ignore[misc]
            if status == 5:
                sys.exit(f"pytest found none of the recorded tests {part[:3]} ...: run `record` again")
            if status != 0:
                why = json.loads(told.read_text().splitlines()[0]) if told.exists() else {"by": f"exit {status}"}
                result |= {"status": "timeout" if status == "timeout" else "killed", **why}
                break
    finally:
        shutil.copy2(site.file, target)
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def twin(folder: Path) -> Path:
    """The folder `src` of a copy of the house; tests find its examples and pages where they lie beside the package."""
    for entry in ROOT.iterdir():
        if entry.name != "src":
            (folder / entry.name).symlink_to(entry)
    shutil.copytree(SOURCE, folder / "src" / "reverie")
    return folder / "src"


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The results by mutant; the last of several counts."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {result["mutant"]: result for result in map(json.loads, lines)}


def run(arguments: argparse.Namespace) -> None:
    warm_up()
    record, known = Record(), read(arguments.out)
    drawn = draw(SOURCE, arguments.count, arguments.seed)
    names = [site.told(ROOT)["mutant"] for site in drawn]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = twin(Path(folder))
        for place, (name, site) in enumerate(zip(names, drawn, strict=True)):
            if name in known and not (arguments.again and known[name]["status"] in ("survived", "not covered")):
                continue
            known[name] = result = attempt(site, record, copy, arguments.budget)
            with arguments.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{place + 1}/{len(drawn)} {result['status']} {name} ({result.get('seconds', 0)} s)", flush=True)
        killers = sorted({r["by"] for r in known.values() if r["status"] == "killed" and r["by"] in record.seconds})
        control = copy / "control"
        forked(lambda: testing(killers, copy, control), STATE / "log", 600 + 4 * sum(map(record.seconds.get, killers)))  # type: ignore[arg-type]
        flaky = [json.loads(line)["by"] for line in control.read_text().splitlines()] if control.exists() else []
    print(f"tests that killed: {len(killers)}; of these red on the unchanged code: {flaky or 'none'}")
    show(arguments)


def show(arguments: argparse.Namespace) -> None:
    results = read(arguments.out).values()
    rooms = sorted({result["room"] for result in results})
    print("| room | mutants | killed | survived | not covered |\n|---|--:|--:|--:|--:|")
    for room in [*rooms, "all"]:
        counts = collections.Counter(r["status"] for r in results if room in (r["room"], "all"))
        dead, total = counts["killed"] + counts["timeout"], sum(counts.values())
        print(f"| {room} | {total} | {dead} ({dead / total:.0%}) | {counts['survived']} | {counts['not covered']} |")
    for result in results:
        if result["status"] in ("survived", "not covered"):
            print(f"{result['status']}: {result['mutant']}\n  {result['source']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("record")
    command.add_argument("--fresh", action="store_true", help="record every test file again (after a change of src)")
    command.set_defaults(work=record)
    for work in (run, show):
        command = commands.add_parser(work.__name__)
        command.add_argument("--count", type=int, default=300)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutants.jsonl")
        command.add_argument("--budget", type=float, default=90, help="recorded seconds of tests a mutant may use")
        command.add_argument("--again", action="store_true", help="try those again that survived")
        command.set_defaults(work=work)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
