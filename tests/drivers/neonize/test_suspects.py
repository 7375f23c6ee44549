"""Which session brings its worker down: groups after each death, whatever the numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roundtrip.drivers.neonize.suspects import ALONE_AFTER, ALONE_LIMIT, MEMORY, Suspects


@given(st.integers(2, 200), st.data())
def test_the_guilty_one_is_found_in_three_deaths_and_nobody_else_loses_more(count: int, data: st.DataObject) -> None:
    names = tuple(f"link-{number}" for number in range(count))
    guilty = data.draw(st.sampled_from(names))
    suspects, gaps, group, deaths = Suspects(), dict.fromkeys(names, 0), names, 0
    while len(group) > 1:
        for name in group:
            gaps[name] += 1
        verdict = suspects.after_death(group, float(deaths))
        deaths += 1
        assert sorted(name for one in verdict.groups for name in one) == sorted(group), "nobody is forgotten"
        assert verdict.guilty is None
        group = next(one for one in verdict.groups if guilty in one)
    assert deaths <= ALONE_AFTER
    assert max(gaps.values()) <= ALONE_AFTER
    for times in range(1, ALONE_LIMIT + 1):
        verdict = suspects.after_death(group, float(deaths + times))
        assert (verdict.guilty == guilty) == (times == ALONE_LIMIT)
    assert suspects.alone(guilty, float(deaths + ALONE_LIMIT)), "who is started once more is alone"
    assert [name for name in names if suspects.alone(name, 10.0) and name != guilty] == [
        name for name in names if name != guilty and gaps[name] == ALONE_AFTER
    ]


def test_a_suspect_that_lives_is_none_any_more() -> None:
    suspects = Suspects()
    suspects.after_death(("one",), 0.0)
    assert suspects.alone("one", MEMORY - 1)
    assert not suspects.alone("one", MEMORY)
    assert suspects.after_death(("one",), MEMORY).guilty is None


def test_who_dies_alone_is_tried_again_later_and_later() -> None:
    suspects = Suspects()
    delays = [suspects.after_death(("one",), float(at)).delay for at in range(ALONE_LIMIT - 1)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
