"""Ids of requests: form, order, time."""

from __future__ import annotations

import importlib.util
import uuid
from types import ModuleType

import pytest

from flashbulb_server.core import ids
from flashbulb_server.core.ids import created_at, is_request_id

START = 1_700_000_000.0


@pytest.fixture
def fresh() -> ModuleType:
    """The module, loaded anew: ids of one process never go back, so tests must not share its counter."""
    module = importlib.util.module_from_spec(ids.__spec__)
    ids.__spec__.loader.exec_module(module)
    return module


def test_an_id_is_a_uuid_of_version_7(fresh):
    made = fresh.new_request_id(START)
    parsed = uuid.UUID(made)
    assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)
    assert is_request_id(made)


def test_ids_of_one_moment_differ_and_grow(fresh):
    made = [fresh.new_request_id(START) for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)
    assert created_at(made[-1]) - created_at(made[0]) <= 0.003  # 4096 a millisecond, then the next one is borrowed


def test_ids_grow_with_the_clock(fresh):
    made = [fresh.new_request_id(START + 10 + i / 1000) for i in range(1000)]
    assert made == sorted(made)
    assert len({m[:13] for m in made}) >= 999


def test_ids_grow_while_the_clock_goes_back(fresh):
    made = [fresh.new_request_id(START + 20 - i) for i in range(5000)]
    assert made == sorted(set(made))
    after = fresh.new_request_id(START + 21)
    assert after > made[-1]
    assert created_at(after) == pytest.approx(START + 21, abs=0.001)


def test_an_id_knows_when_it_was_made(fresh):
    now = START + 30.1234
    assert created_at(fresh.new_request_id(now)) == pytest.approx(now, abs=0.001)
    assert created_at("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == 1645557742.0  # RFC 9562, appendix A.6


GOOD = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        GOOD.upper(),
        GOOD.replace("-", ""),
        GOOD + "\n",
        " " + GOOD,
        GOOD + "0",
        GOOD[:-1],
        GOOD.replace("-7", "-4"),
        GOOD.replace("-98", "-18"),
        GOOD.replace("e", "g"),
        "{" + GOOD + "}",
        GOOD + "." + GOOD,
        "017f22e2-79b0-7cc3-98c4-dc0c0c0739\u0661\u0662",
        "*",
        ">",
    ],
)
def test_other_texts_are_no_ids(text):
    assert is_request_id(GOOD)
    assert not is_request_id(text)
