"""The share of tests that use the public contract only: what makes a test one that holds on to internals."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tools import contract_share

APP = "round" + "trip.app"
"""Written in two, for this module imports nothing of the program, not even in a string."""


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    folder = tmp_path / "tests"
    (folder / "support").mkdir(parents=True)
    return folder


def internal(tests: Path) -> dict[str, list[str]]:
    """What each test needs of the program, by the test's name."""
    return {test.name: sorted(test.internal) for test in contract_share.tests(tests)}


def write(path: Path, text: str) -> None:
    path.write_text(dedent(text).replace("APP", APP))


def test_each_function_counts_for_itself(tests: Path) -> None:
    write(
        tests / "test_mixed.py",
        """
        from tests.support import x
        import backends

        def test_a():
            from APP import Backend

        async def test_b(): ...

        class TestSome:
            def test_c(self): ...

            class TestMore:
                def test_d(self):
                    if x:
                        import APP as app

            def helper(self): ...

        class Helper:
            def test_e(self): ...
        """,
    )
    assert internal(tests) == {"test_a": [APP], "test_b": [], "TestSome.test_c": [], "TestSome.TestMore.test_d": [APP]}
    assert contract_share.share(list(contract_share.tests(tests))) == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "from APP import Backend",
        "import APP",
        "if x:\n    import APP",
        "def helper():\n    from APP import Backend",
        "class Base:\n    import APP",
        "CODE = 'import sys; from APP import Backend'",
    ],
)
def test_what_a_module_imports_outside_of_its_tests_counts_for_all_of_them(tests: Path, text: str) -> None:
    write(tests / "test_all.py", f"{text}\n\ndef test_a(): ...\n\ndef test_b(): ...\n")
    assert internal(tests) == {"test_a": [APP], "test_b": [APP]}


@pytest.mark.parametrize(
    "text",
    [
        "import roundtripper",
        "from backends.app import x",
        "from . import roundtrip",
        "COMMAND = ['-m', 'roundtrip']",
        "TEXT = 'events of roundtrip'",
    ],
)
def test_what_only_looks_like_the_program_does_not_count(tests: Path, text: str) -> None:
    write(tests / "test_none.py", f"{text}\n\ndef test_a(): ...\n")
    assert internal(tests) == {"test_a": []}


def test_a_helper_that_imports_the_program_counts_as_the_program(tests: Path) -> None:
    write(tests / "inside.py", "def make():\n    from APP import Backend\n")
    write(tests / "outside.py", "from tests.inside import make\n")
    package = tests / "package"
    package.mkdir()
    write(package / "__init__.py", "import APP\n")
    write(tests / "test_a.py", "from tests.inside import make\n\ndef test_direct(): ...\n")
    write(tests / "test_b.py", "def test_lazy():\n    from tests import inside\n\ndef test_other(): ...\n")
    write(tests / "test_c.py", "import tests.package\n\ndef test_package(): ...\n")
    write(tests / "test_d.py", "from tests.outside import make\n\ndef test_two_levels(): ...\n")
    assert internal(tests) == {
        "test_direct": ["tests.inside"],
        "test_lazy": ["tests.inside"],
        "test_other": [],
        "test_package": ["tests.package"],
        "test_two_levels": [],
    }


def test_builders_count_as_outside(tests: Path) -> None:
    write(tests / "support" / "builder.py", "import APP\n")
    write(tests / "test_a.py", "from tests.support.builder import x\n\ndef test_a(): ...\n")
    assert internal(tests) == {"test_a": []}


def test_a_state_machine_of_hypothesis_is_a_test(tests: Path) -> None:
    write(tests / "test_a.py", "from APP import Backend\n\nclass Machine: ...\n\nTestMachine = Machine.TestCase\n")
    write(tests / "test_b.py", "class Other: ...\n\nTestOther = Other.TestCase\n")
    assert internal(tests) == {"TestMachine": [APP], "TestOther": []}


def test_the_list_names_the_modules_with_internals(
    tests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tests / "test_a.py", "from APP import Backend\n\ndef test_a(): ...\n\ndef test_b(): ...\n")
    write(tests / "test_b.py", "def test_c(): ...\n\ndef test_d():\n    from APP import Backend\n")
    monkeypatch.setattr(contract_share, "ROOT", tests.parent)
    assert contract_share.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"   2 tests/test_a.py: {APP}",
        f"   1 tests/test_b.py: {APP}",
        "1 of 4 tests (25%) import nothing of the program; goal 50%",
    ]


def test_no_tests_are_no_error(tests: Path) -> None:
    assert contract_share.share(list(contract_share.tests(tests))) == 0.0
