import pytest

pytest.register_assert_rewrite("tests.outbox.contract", "tests.outbox.model")  # not named test_*, but full of asserts
