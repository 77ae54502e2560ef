"""What may be said of a request beyond its input."""

from __future__ import annotations

import math

import pytest

from flashbulb_server.core.requests import Priority, State
from flashbulb_server.core.submission import Page, Submission, hint_problems, page
from flashbulb_server.errors import InvalidRequest

TOKEN = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_nothing_need_be_said():
    assert Submission().problems() == []
    assert Submission() == Submission(Priority.NORMAL, idempotency_key="", start_timeout=None, runner_hint="")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idempotency_key", "x"),
        ("idempotency_key", "!~" * 64),
        ("start_timeout", 0.1),
        ("start_timeout", 86_400.0),
        ("runner_hint", "x" * 128),
        ("runner_hint", "warm \u00e9"),
        ("keep", 1.0),
        ("keep", math.inf),
        ("max_waiting", 0),
    ],
)
def test_a_value_at_its_limit_is_taken(name, value):
    assert Submission(**{name: value}).problems() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep", 0.0),
        ("keep", math.nan),
        ("max_waiting", -1),
        ("idempotency_key", "x" * 129),
        ("idempotency_key", "a b"),
        ("idempotency_key", "a\n"),
        ("idempotency_key", "\x7f"),
        ("idempotency_key", "\u00e9"),
        ("start_timeout", 0.0999),
        ("start_timeout", 0.0),
        ("start_timeout", -1.0),
        ("start_timeout", 86_400.1),
        ("start_timeout", math.nan),
        ("start_timeout", math.inf),
        ("runner_hint", "x" * 129),
    ],
)
def test_a_value_past_its_limit_is_named(name, value):
    assert [p.field for p in Submission(**{name: value}).problems()] == [name]


def test_all_problems_are_named():
    bad = Submission(idempotency_key=" ", start_timeout=0.0, runner_hint="x" * 200, webhook_url="ftp://x")
    assert [p.field for p in bad.problems()] == ["idempotency_key", "start_timeout", "webhook_url", "runner_hint"]


def test_a_hint_alone():
    assert hint_problems("") == []
    assert "200 characters, at most 128" in hint_problems("x" * 200)[0].description


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_the_size_of_a_page(asked, size):
    assert page(asked, "", frozenset()) == Page(size, "", frozenset())


def test_a_page_further_on():
    assert page(0, TOKEN, frozenset({State.QUEUED})) == Page(50, TOKEN, frozenset({State.QUEUED}))


@pytest.mark.parametrize("token", ["x", TOKEN + "\n", TOKEN.upper(), "*", "../" + TOKEN])
def test_bad_pages_are_named_together(token):
    with pytest.raises(InvalidRequest) as caught:
        page(-1, token, frozenset())
    assert [v.field for v in caught.value.violations] == ["page_size", "page_token"]
