"""One mutant against its tests, in a process of its own. The checkout's files are never touched.

A change inside a function is made by giving the function objects of the collected tests' process new code: nothing is
imported again, so a trial takes as long as its tests. A change of what runs at import (constants, defaults, class
bodies) is imported instead of the original, in a process that has imported nothing of the program yet.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from tools.mutation import forks
from tools.mutation.coverage_map import OPTIONS
from tools.mutation.mutants import Mutant, mutated
from tools.mutation.plan import ROOT, WORK

SURVIVED, KILLED, UNFIT = 0, 1, 3
"""A trial's exit status; `UNFIT`: the change cannot be made in place."""

TestsOf = Callable[[Mutant], tuple[list[str], float]]
"""A mutant's tests, and how many seconds they take unmutated."""
OnVerdict = Callable[[Mutant, int], bool]
"""Called with each verdict; False ends the run."""


def limit(seconds: float) -> float:
    """How long tests may take that take so many seconds unmutated, on a machine that does other things too."""
    return 10 + 6 * seconds


class InPlace:
    """A pytest plugin that, in place of running the tests, tries mutants on them."""

    def __init__(
        self, mutants: Sequence[Mutant], tests_of: TestsOf, on_verdict: OnVerdict, at_once: int, until: float
    ) -> None:
        self._mutants = mutants
        self._tests_of = tests_of
        self._on_verdict = on_verdict
        self._at_once = at_once
        self._until = until
        self._failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = _functions()
        gc.freeze()
        jobs = self._jobs(session, items, functions)
        for mutant, status in forks.run(jobs, self._at_once, WORK / "trials.log", self._until):
            shutil.rmtree(_folder(mutant), ignore_errors=True)
            if not self._on_verdict(mutant, status):
                break
        return True

    def _jobs(
        self, session: pytest.Session, items: dict[str, pytest.Item], functions: Functions
    ) -> Iterator[forks.Job[Mutant]]:
        for mutant in self._mutants:
            names, seconds = self._tests_of(mutant)
            chosen = [items[name] for name in names if name in items]
            yield forks.Job(mutant, lambda m=mutant, c=chosen: self._try(session, m, c, functions), limit(seconds))  # type: ignore[misc]  # bound now

    def _try(self, session: pytest.Session, mutant: Mutant, items: list[pytest.Item], functions: Functions) -> int:
        if not _swap(mutant, functions):
            return UNFIT
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        session.config._tmp_path_factory._basetemp = _made(mutant)  # type: ignore[attr-defined]  # no public way after start
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for item, following in zip(items, [*items[1:], None], strict=True):
            try:
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):  # pytest hands these on; no test passes so
                return KILLED
            if self._failed:
                return KILLED
        return SURVIVED


Functions = dict[tuple[str, str, int], list[FunctionType]]


def _functions() -> Functions:
    """Every function of the program, by file, name and first line."""
    found: Functions = defaultdict(list)
    root = str(ROOT)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and (code := thing.__code__).co_filename.startswith(root):
            found[code.co_filename, code.co_qualname, code.co_firstlineno].append(thing)
    return found


def _swap(mutant: Mutant, functions: Functions) -> bool:
    path = str(ROOT / mutant.path)
    code = _code(compile(mutated(Path(path).read_text(), mutant.number), path, "exec"), mutant)
    targets = functions.get((path, mutant.function, mutant.function_line), [])
    if code is None or not targets:
        return False
    for target in targets:
        if target.__code__.co_freevars != code.co_freevars:
            return False
        target.__code__ = code
    return True


def _code(module: CodeType, mutant: Mutant) -> CodeType | None:
    wanted = (mutant.function, mutant.function_line)
    waiting = [module]
    while waiting:
        code = waiting.pop()
        if (code.co_qualname, code.co_firstlineno) == wanted:
            return code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return None


def _folder(mutant: Mutant) -> Path:
    return WORK / "tmp" / mutant.key


def _made(mutant: Mutant) -> Path:
    folder = _folder(mutant)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def in_place(
    mutants: Sequence[Mutant],
    files: list[str],
    tests_of: TestsOf,
    on_verdict: OnVerdict,
    at_once: int,
    until: float = math.inf,
) -> None:
    """Try mutants of functions on the tests of these files, no longer than `until` on the monotonic clock."""
    pytest.main([*OPTIONS, *files], plugins=[InPlace(mutants, tests_of, on_verdict, at_once, until)])


def at_import(
    mutants: Sequence[Mutant], tests_of: TestsOf, on_verdict: OnVerdict, at_once: int, until: float = math.inf
) -> None:
    """Try mutants of what runs at import, no longer than `until`. The program must not have been imported in this
    process."""
    jobs = (
        forks.Job(mutant, lambda m=mutant, n=names: _import(m, n), 15 + limit(seconds))  # type: ignore[misc]  # bound now
        for mutant in mutants
        for names, seconds in [tests_of(mutant)]
    )
    for mutant, status in forks.run(jobs, at_once, WORK / "trials.log", until):
        shutil.rmtree(_folder(mutant), ignore_errors=True)
        if not on_verdict(mutant, status):
            return


def _import(mutant: Mutant, tests: list[str]) -> int:
    sys.meta_path.insert(0, _Instead(mutant))
    os.chdir(ROOT)
    status = pytest.main([*OPTIONS, "-x", f"--basetemp={_made(mutant)}", *tests])
    return SURVIVED if status == pytest.ExitCode.OK else KILLED


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in the original's place."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = ".".join(mutant.path.with_suffix("").parts).removesuffix(".__init__")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, ROOT / self._mutant.path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        path = ROOT / self._mutant.path
        code: Any = compile(mutated(path.read_text(), self._mutant.number), str(path), "exec")
        exec(code, module.__dict__)  # noqa: S102  # it is the program's own source
