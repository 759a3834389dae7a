import pytest

# Shared with the unit tests; its asserts explain themselves only if rewritten before the first import.
pytest.register_assert_rewrite("tests.transport.contract")
