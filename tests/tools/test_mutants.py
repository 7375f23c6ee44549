"""The tool that counts unnoticed faults: which it makes, how they are named, how they are tried."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tools.mutation import __main__ as command
from tools.mutation import coverage_map, forks
from tools.mutation.__main__ import highest
from tools.mutation.mutants import mutants, mutated
from tools.mutation.plan import ROOT, Equivalent, equivalents, load

SOURCE = '''
"""Words."""
LIMIT = 5

class Box:
    def full(self, count: int = 3) -> bool:
        """Words."""
        if count < LIMIT and not self.closed:
            self.count = count
            log.info("words that nobody tests")
            return True
        raise ValueError("a sentence for people")
'''


def test_each_kind_of_fault_is_made_once() -> None:
    made = {(m.function, m.before, m.after) for m in mutants(Path("box.py"), SOURCE)}
    assert made == {
        ("", "5", "6"),
        ("", "3", "4"),
        ("Box.full", "if count < LIMIT and (not self.closed):", "if True:"),
        ("Box.full", "if count < LIMIT and (not self.closed):", "if False:"),
        ("Box.full", "count < LIMIT and (not self.closed)", "count < LIMIT or not self.closed"),
        ("Box.full", "count < LIMIT", "count <= LIMIT"),
        ("Box.full", "count < LIMIT", "count >= LIMIT"),
        ("Box.full", "not self.closed", "self.closed"),
        ("Box.full", "self.count = count", "pass"),
        ("Box.full", "return True", "return None"),
        ("Box.full", "True", "False"),
        ("Box.full", "raise ValueError('a sentence for people')", "pass"),
    }


def test_each_fault_is_another_program() -> None:
    found = mutants(Path("box.py"), SOURCE)
    texts = {ast.unparse(mutated(SOURCE, mutant.number)) for mutant in found}
    assert len(texts) == len(found)
    assert ast.unparse(ast.parse(SOURCE)) not in texts


def test_a_name_outlives_a_move() -> None:
    moved = "import os\n\n\ndef before() -> None:\n    os.sync()\n" + SOURCE
    old = {mutant.key for mutant in mutants(Path("box.py"), SOURCE)}
    assert old < {mutant.key for mutant in mutants(Path("elsewhere/crate.py"), moved)}
    assert len(old) == len(mutants(Path("box.py"), SOURCE))


def test_every_judged_fault_is_still_there_and_has_its_reason() -> None:
    """If one is not, the code changed: run .venv/bin/python -m tools.mutation --prune, and judge what is new."""
    known = {m.key for paths in load().files().values() for p in paths for m in mutants(p, (ROOT / p).read_text())}
    judged: list[Equivalent] = list(equivalents().values())
    assert [entry.where for entry in judged if entry.key not in known] == []
    assert [entry.where for entry in judged if len(entry.reason) < 20] == []


def test_an_unknown_part_is_told() -> None:
    with pytest.raises(ValueError, match="there is no part kitchen; there are"):
        load().files(("kitchen",))


def _sleeping() -> int:
    time.sleep(60)
    return 0


def children() -> set[int]:
    """The processes of this one, those that ended and were not waited for too: a server for other tests is one."""
    return {child.pid for child in psutil.Process().children()}


def _raising() -> int:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("work", "limit", "status"),
    [(lambda: 3, 30.0, 3), (_sleeping, 0.2, forks.LATE), (_raising, 30.0, forks.BROKEN)],
)
def test_a_trial_ends_in_time_whatever_it_does(
    tmp_path: Path, work: Callable[[], int], limit: float, status: int
) -> None:
    before = children()
    assert list(forks.run([forks.Job("it", work, limit)], 1, tmp_path / "log")) == [("it", status)]
    assert children() <= before


def test_a_trial_that_has_not_even_begun_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine its deadline may come before it has a process group of its own."""
    before, begin = children(), time.monotonic()
    monkeypatch.setattr(forks, "_end_with_parent", _sleeping)
    assert list(forks.run([forks.Job("it", lambda: 0, 0.2)], 1, tmp_path / "log")) == [("it", forks.LATE)]
    assert time.monotonic() - begin < 30
    assert children() <= before


def test_no_trial_goes_on_past_the_end_of_the_run(tmp_path: Path) -> None:
    """However long its own limit is; it was not judged."""
    before, begin = children(), time.monotonic()
    jobs = [forks.Job("slow", _sleeping, 60.0), forks.Job("quick", lambda: 0, 60.0)]
    assert list(forks.run(jobs, 2, tmp_path / "log", begin + 1.0)) == [("quick", 0)]
    assert time.monotonic() - begin < 10
    assert children() <= before


def test_tests_that_take_all_the_time_say_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(coverage_map, "WORK", tmp_path)
    monkeypatch.setattr(coverage_map, "_measuring", lambda *_: _sleeping)
    with pytest.raises(coverage_map.NoTimeError):
        coverage_map.measure(load(), 2, time.monotonic() + 0.2, coverage_map.Cache(load(), tmp_path))


def test_what_a_red_test_might_have_noticed_is_not_held_against_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.jsonl")
    box = Path("box.py")
    known = mutants(box, SOURCE)
    red = next(mutant for mutant in known if mutant.function)
    tally = command.Tally({box: "box"}, frozenset(), coverage_map.CoverageMap(uncertain={"box.py": [red.line]}), 0.0)
    for mutant in known:
        tally.note(mutant, command.SURVIVED)
    verdicts = {result.key: result.verdict for result in tally.results}
    assert verdicts[red.key] == command.UNJUDGED
    assert verdicts[known[0].key] == command.SURVIVED
    tally.note(red, command.KILLED)
    assert tally.results[-1].verdict == command.KILLED


def test_trials_run_side_by_side(tmp_path: Path) -> None:
    def meet(number: int) -> int:
        """0 once all four are there at the same time."""
        (tmp_path / f"{number}.here").touch()
        until = time.monotonic() + 20
        while len(list(tmp_path.glob("*.here"))) < 4:
            if time.monotonic() > until:
                return 1
            time.sleep(0.01)
        return 0

    jobs = (forks.Job(n, partial(meet, n), 30) for n in range(4))
    assert sorted(forks.run(jobs, 4, tmp_path / "log")) == [(n, 0) for n in range(4)]


def test_a_small_sample_fails_only_where_chance_does_not_explain_it() -> None:
    assert highest(0.5, 10_000) == pytest.approx(0.5116, abs=0.001)
    assert highest(0.45, 40) > 0.52 > highest(0.30, 40)
    assert highest(0.0, 0) == 1.0
