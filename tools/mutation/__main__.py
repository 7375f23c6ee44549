"""Puts small faults into the core, one at a time, and counts how many the quick tests notice.

`python -m tools.mutation` prints the share and every survivor, and ends with 1 where it is below `--at-least`.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tools.mutation import forks, trial
from tools.mutation import plan as plans
from tools.mutation.coverage_map import Cache, CoverageMap, NoTimeError, measure, steady
from tools.mutation.mutants import Mutant, mutants
from tools.mutation.plan import WORK, Plan, Score

KILLED: Final = "killed"
SURVIVED: Final = "survived"
UNREACHED: Final = "unreached"
EQUIVALENT: Final = "equivalent"
UNJUDGED: Final = "unjudged"
"""It survived, but its lines are run by a test that is red without any mutant, and so could not be asked."""

AT_ONCE: Final = 2
"""Processes for each worker that run tests unmutated: these wait about half of the time, and no verdict hangs on it."""

KEPT: Final = 14 * 86_400.0
"""Seconds for which a map of tests is kept that nobody asked for."""

OVERTIME: Final = 30.0
"""Seconds past the budget in which a process that only collects tests must have ended."""

RESULTS: Final = WORK / "results.jsonl"
MARGIN: Final = 0.10
"""How far below the measured share a sample of some hundred may fall by chance."""


class Result(msgspec.Struct, frozen=True):
    """What became of one mutant, as a line of `RESULTS`."""

    key: str
    part: str
    where: str
    what: str
    before: str
    after: str
    verdict: str
    late: bool = False


class Tally:
    """Verdicts as they come. `on_verdict` is a trial's callback: it returns whether there is time for more."""

    def __init__(self, parts: dict[Path, str], equivalent: frozenset[str], tests: CoverageMap, deadline: float) -> None:
        self._parts = parts
        self._tests = tests
        self._equivalent = equivalent
        self.deadline = deadline
        self.results: list[Result] = []
        self.unfit: list[Mutant] = []
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text("")

    def on_verdict(self, mutant: Mutant, status: int) -> bool:
        if status == forks.BROKEN:
            raise RuntimeError(f"the trial of {mutant} failed: see {WORK / 'trials.log'}")
        if status == trial.UNFIT:
            self.unfit.append(mutant)
        elif status == trial.SURVIVED:
            self.note(mutant, EQUIVALENT if mutant.key in self._equivalent else SURVIVED)
        else:  # a failed test, or an end by signal or deadline: the mutant hangs or takes the process with it
            self.note(mutant, KILLED, late=status != trial.KILLED)
        return time.monotonic() < self.deadline

    def note(self, mutant: Mutant, verdict: str, *, late: bool = False) -> None:
        lines = range(mutant.line, mutant.end_line + 1)
        if verdict in {SURVIVED, UNREACHED} and self._tests.is_uncertain(mutant.path, lines):
            verdict = UNJUDGED
        where = f"{mutant.path}:{mutant.line} {mutant.function}".strip()
        part = self._parts[mutant.path]
        result = Result(mutant.key, part, where, mutant.what, mutant.before, mutant.after, verdict, late)
        self.results.append(result)
        with RESULTS.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    begin = time.monotonic()
    plan = plans.load()
    try:
        files = plan.files(tuple(options.part))
    except ValueError as error:
        print(f"mutation: {error}", file=sys.stderr)  # noqa: T201  # a command's answer
        return 2
    if options.prune:
        return _prune(files)
    _print("running the tests unmutated, to see which lines each reaches …")
    steady()
    try:
        coverage_map = _coverage_map(plan, options.workers, begin + options.budget)
    except NoTimeError as error:  # a machine that is too slow or too busy is no verdict on the program
        _print(f"mutation: NO VERDICT within {options.budget:.0f} s: {error}")
        return 0
    parts = {path: part for part, paths in files.items() for path in paths}
    known = [m for path in parts for m in mutants(path, (plans.ROOT / path).read_text())]
    order = sorted(known, key=lambda mutant: mutant.key)
    seed = options.seed or plans.commit()
    random.Random(seed).shuffle(order)  # noqa: S311  # a sample, no secret
    if options.only:
        order = [mutant for mutant in order if options.only in f"{mutant.path} {mutant.function}"]
    if options.keys:
        wanted = set(options.keys.read_text().split())
        order = [mutant for mutant in order if mutant.key in wanted]
    order = order[: options.sample]
    tally = Tally(parts, frozenset(plans.equivalents()), coverage_map, begin + options.budget)
    spent = time.monotonic() - begin
    _print(f"{len(known)} mutants, {len(coverage_map.names)} tests to try them on, {spent:.0f} s so far; seed {seed}")
    _try_all(order, coverage_map, plan, tally, options.workers)
    score = _score(tally.results, len(known))
    _report(score, tally.results, len(coverage_map.failed))
    if score.sampled == 0:
        _print(f"mutation: NO VERDICT within {options.budget:.0f} s: no mutant was tried to its end")
        return 0
    if options.keep:
        plans.SCORE.write_bytes(msgspec.json.format(msgspec.json.encode(score), indent=2) + b"\n")
    floor = _floor(options.at_least)
    best = highest(score.share, score.sampled)
    if best < floor:
        _print(f"FAILED: {score.share:.1%} of {score.sampled}, at best {best:.1%}, is below the floor of {floor:.1%}")
        return 1
    return 0


def highest(share: float, sampled: int) -> float:
    """The share of all mutants that a sample of so many still allows: chance alone exceeds it once in a hundred runs
    (Wilson's bound, one-sided)."""
    if sampled == 0:
        return 1.0
    z = 2.326
    middle = share + z * z / (2 * sampled)
    spread = z * math.sqrt(share * (1 - share) / sampled + z * z / (4 * sampled * sampled))
    return (middle + spread) / (1 + z * z / sampled)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("part", nargs="*", help="only these parts of [tool.mutation]")
    parser.add_argument("--budget", type=float, default=3600, metavar="SECONDS", help="stop after so long")
    parser.add_argument("--sample", type=int, metavar="N", help="at most so many mutants, chosen by the seed")
    parser.add_argument("--seed", help="of the order; the commit's name if not given")
    parser.add_argument("--only", metavar="TEXT", help="only where file and function contain this")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="only the mutants whose keys the file lists")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, metavar="N")
    parser.add_argument("--keep", action="store_true", help="write the score to tests/mutation/score.json")
    parser.add_argument("--prune", action="store_true", help="take out judged mutants that the code no longer has")
    parser.add_argument("--at-least", metavar="SHARE", help="fail below it; `floor` is that of the kept score")
    return parser


def _prune(files: dict[str, list[Path]]) -> int:
    known = {m.key for paths in files.values() for p in paths for m in mutants(p, (plans.ROOT / p).read_text())}
    judged = plans.equivalents().values()
    kept = [entry for entry in judged if entry.key in known]
    plans.EQUIVALENT.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    _print(f"{len(kept)} of {len(judged)} judged mutants are still there")
    return 0


def _coverage_map(plan: Plan, workers: int, until: float) -> CoverageMap:
    cache = Cache(plan)
    cache.forget(KEPT)
    coverage_map = measure(plan, AT_ONCE * workers, until, cache)
    for name in coverage_map.failed:
        _print(f"red without any mutant, so none is tried on it: {name}")
    return coverage_map


def _try_all(order: Sequence[Mutant], coverage_map: CoverageMap, plan: Plan, tally: Tally, workers: int) -> None:
    """Mutants that no test reaches need no trial; those of functions are tried in place, the others at import."""
    spans = _spans(order)

    def tests_of(mutant: Mutant) -> tuple[list[str], float]:
        tests = coverage_map.tests_for(mutant.path, spans[mutant.key], plan)
        return tests, coverage_map.time_of(tests)

    reached = [mutant for mutant in order if tests_of(mutant)[0]]
    in_place = [mutant for mutant in reached if mutant.function]
    at_import = [mutant for mutant in reached if not mutant.function]
    whole = tally.deadline - time.monotonic()
    last = tally.deadline
    # what is imported anew takes some three times as long: both kinds get as far down the shuffled order as the other
    tally.deadline -= whole * 3 * len(at_import) / max(1, 3 * len(at_import) + len(in_place))
    done = _in_place(in_place, coverage_map, tests_of, tally, workers)
    if done < len(in_place):
        unreached = [m for m in order if m not in set(reached)]
        share = done / len(in_place)
        for mutant in unreached[: round(len(unreached) * share)]:
            tally.note(mutant, UNREACHED)
    else:
        for mutant in order:
            if not tests_of(mutant)[0]:
                tally.note(mutant, UNREACHED)
        share = 1.0
    tally.deadline = last
    again, tally.unfit = tally.unfit, []
    trial.at_import([*again, *at_import[: round(len(at_import) * share)]], tests_of, tally.on_verdict, workers, last)


def _in_place(order: Sequence[Mutant], tests: CoverageMap, tests_of: trial.TestsOf, tally: Tally, workers: int) -> int:
    """In a fork, since collecting imports the program; how many were tried."""
    before = len(tally.results)
    unfit = WORK / "unfit"
    files = sorted({name.partition("::")[0] for name in tests.names})

    def work() -> int:
        trial.in_place(order, files, tests_of, tally.on_verdict, workers, tally.deadline)
        unfit.write_text("\n".join(mutant.key for mutant in tally.unfit))
        return 0

    unfit.write_text("")
    until = tally.deadline + OVERTIME
    for _, status in forks.run([forks.Job("in place", work, 1e6)], 1, WORK / "collector.log", until):
        if status != 0:
            raise RuntimeError(f"mutants could not be tried ({status}): see {WORK / 'collector.log'}")
    tally.results = [msgspec.json.decode(line, type=Result) for line in RESULTS.read_bytes().splitlines()]
    again = set(unfit.read_text().split())
    tally.unfit = [mutant for mutant in order if mutant.key in again]
    return len(tally.results) - before + len(again)


def _spans(order: Sequence[Mutant]) -> dict[str, range | None]:
    """The lines that a mutant's tests must run: its own; for what runs at import, any of its file."""
    return {m.key: range(m.line, m.end_line + 1) if m.function else None for m in order}


def _score(results: Sequence[Result], total: int) -> Score:
    counts = Counter(result.verdict for result in results)
    by_part: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        by_part[result.part][result.verdict] += 1
    share = _share(counts)
    return Score(
        measured=datetime.datetime.now(datetime.UTC).date().isoformat(),
        sampled=len(results) - counts[UNJUDGED],
        mutants=total,
        killed=counts[KILLED],
        survived=counts[SURVIVED],
        unreached=counts[UNREACHED],
        equivalent=counts[EQUIVALENT],
        unjudged=counts[UNJUDGED],
        share=round(share, 4),
        floor=round(max(0.0, share - MARGIN), 2),
        parts={
            part: {"share": round(_share(verdicts), 4), "sampled": verdicts.total() - verdicts[UNJUDGED]}
            for part, verdicts in sorted(by_part.items())
        },
    )


def _share(counts: Counter[str]) -> float:
    """Killed, of those that could be noticed."""
    return counts[KILLED] / max(1, counts.total() - counts[EQUIVALENT] - counts[UNJUDGED])


def _floor(wanted: str | None) -> float:
    if wanted != "floor":
        return float(wanted or 0)
    kept = plans.score()
    return kept.floor if kept else 0.0


def _report(score: Score, results: Sequence[Result], red: int) -> None:
    for verdict in (SURVIVED, UNREACHED):
        for result in sorted((r for r in results if r.verdict == verdict), key=lambda r: r.where):
            _print(f"{verdict} {result.key} {result.where}: {result.before}  =>  {result.after}")
    late = sum(result.late for result in results)
    for part, figures in score.parts.items():
        _print(f"{part:<12}{figures['share']:7.1%} of {figures['sampled']:.0f}")
    _print(
        f"mutation: {score.share:.1%} killed ({score.killed} of {score.sampled} tried, {late} by a hang; "
        f"{score.survived} survived, {score.unreached} unreached, {score.equivalent} equivalent, "
        f"{score.unjudged} not judged; {score.mutants} mutants in all; {red} tests red without any)"
    )


_print: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731, T201  # a command's output


if __name__ == "__main__":
    sys.exit(main())
