"""The package's public names: all there, each its own, and lazily imported ones where they say."""

from __future__ import annotations

import subprocess
import sys

import pytest

import amqptasks

FRESH = """
import importlib, sys, amqptasks
for name in amqptasks.__all__:
    for module in [module for module in sys.modules if module.partition(".")[0] == "amqptasks"]:
        del sys.modules[module]
    found = getattr(importlib.import_module("amqptasks"), name)
    print(name, getattr(found, "__name__", "").rpartition(".")[2])
"""


def test_every_public_name_can_be_imported_first() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} {name}" for name in amqptasks.__all__]


def test_the_list_is_sorted_and_without_doubles() -> None:
    assert amqptasks.__all__ == sorted(set(amqptasks.__all__))
    assert set(amqptasks.__all__) <= set(dir(amqptasks))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        amqptasks.nothing
