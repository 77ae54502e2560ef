"""Webhooks: which URLs will do, what a receiver's status means, the schedule, the log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb_server.config import WebhookSettings
from flashbulb_server.core import webhooks
from flashbulb_server.core.webhooks import (
    JITTER,
    MAX_ATTEMPTS_KEPT,
    Attempt,
    DeliveryState,
    Verdict,
    Webhook,
    attempted,
    judge,
    renewed,
    retry_delay,
)

HOOK = Webhook("https://example.org/hook?token=secret")
FAILED = Attempt(5.0, 500, "the receiver answered 500")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "https://example.org:8443/a/b?c=d&e=%20",
        "HTTPS://EXAMPLE.ORG/x",
        "https://[2606:4700::1]/x",
        "https://bücher.example/x",
        "https://example.org/" + "x" * (2048 - 20),
    ],
)
def test_urls_that_will_do(url):
    assert webhooks.url_problem(url) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://example.org/x", "http or https"),
        ("example.org/x", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("javascript:alert(1)", "http or https"),
        ("https:///x", "no valid URL"),
        ("https://example.org:0/x", "no valid URL"),
        ("https://example.org:99999/x", "no valid URL"),
        ("https://[::1/x", "no valid URL"),
        ("https://example.org/a b", "no valid URL"),
        ("https://example.org/\r\nX-Evil: 1", "no valid URL"),
        ("https://example.org\\@evil.example/", "no valid URL"),
        ("https://user:secret@example.org/x", "user name or password"),
        ("https://example.org/" + "x" * (2049 - 20), "2049 characters"),
    ],
)
def test_urls_that_will_not_do(url, problem):
    assert problem in webhooks.url_problem(url)


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://Example.org/x", "example.org", "example.org:443"),
        ("http://example.org/x", "example.org", "example.org:80"),
        ("http://example.org:8080/x", "example.org", "example.org:8080"),
    ],
)
def test_host_and_target(url, host, target):
    assert (webhooks.host_of(url), webhooks.target_of(url)) == (host, target)


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ((200, 201, 204, 299), Verdict.DELIVERED),
        ((300, 301, 302, 304, 307, 308, 410), Verdict.FINAL),
        ((100, 400, 401, 404, 408, 409, 422, 429, 500, 502, 503, 599), Verdict.AGAIN),
    ],
)
def test_what_a_status_means(codes, verdict):
    for code in codes:
        found, error = judge(code)
        assert found is verdict
        assert bool(error) is (verdict is not Verdict.DELIVERED)
        assert not error or str(code) in error


def test_the_default_schedule_is_ten_attempts_in_about_two_hours():
    delays = WebhookSettings().retry_seconds
    assert len(delays) + 1 == 10
    assert list(delays) == sorted(delays)
    assert 1.8 * 3600 <= sum(delays) <= 2.2 * 3600
    for jitter in (0.0, 0.5, 0.999):
        total = sum(retry_delay(n, delays, jitter) for n in range(1, 10))
        assert 1.7 * 3600 <= total <= 2.3 * 3600


@settings(deadline=None, max_examples=100, database=None)
@given(failures=st.integers(1, 40), jitter=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_the_schedules_give_or_take_the_jitter(failures, jitter):
    delays = (1.0, 10.0, 100.0)
    found = retry_delay(failures, delays, jitter)
    if failures > 3:
        assert found is None
        return
    nominal = delays[failures - 1]
    assert nominal * (1 - JITTER) <= found <= nominal * (1 + JITTER)


def test_a_delivery():
    after = attempted(HOOK, 0, Attempt(5.0, 204), Verdict.DELIVERED, now=5.1, delay=3.0)
    assert after == replace(HOOK, state=DeliveryState.DELIVERED, attempts=(Attempt(5.0, 204),))


def test_a_failure_is_tried_again_until_the_schedule_is_over():
    once = attempted(HOOK, 0, FAILED, Verdict.AGAIN, now=6.0, delay=3.0)
    assert (once.state, once.failures, once.next_attempt_time) == (DeliveryState.PENDING, 1, 9.0)
    last = attempted(once, 0, FAILED, Verdict.AGAIN, now=10.0, delay=None)
    assert (last.state, last.failures, last.next_attempt_time) == (DeliveryState.GAVE_UP, 2, 0.0)
    assert last.attempts == (FAILED, FAILED)


def test_a_final_answer_ends_it_at_once():
    after = attempted(HOOK, 0, Attempt(5.0, 410, "gone"), Verdict.FINAL, now=6.0, delay=3.0)
    assert (after.state, after.next_attempt_time) == (DeliveryState.GAVE_UP, 0.0)


@pytest.mark.parametrize("state", list(DeliveryState))
def test_a_redelivery_begins_anew_and_keeps_the_log(state):
    spent = replace(HOOK, state=state, failures=9, next_attempt_time=99.0, attempts=(FAILED,))
    assert renewed(spent) == replace(HOOK, series=1, attempts=(FAILED,))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_comes_of_an_earlier_series_only_goes_into_the_log(verdict):
    again = renewed(HOOK)
    assert attempted(again, 0, FAILED, verdict, now=6.0, delay=3.0) == replace(again, attempts=(FAILED,))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_settled_delivery_stays_settled(verdict):
    done = replace(HOOK, state=DeliveryState.DELIVERED)
    assert attempted(done, 0, FAILED, verdict, now=6.0, delay=3.0) == replace(done, attempts=(FAILED,))


def test_the_last_attempts_are_kept():
    hook = HOOK
    for n in range(100):
        hook = attempted(hook, 0, Attempt(float(n), 500, "x"), Verdict.AGAIN, now=1.0, delay=1.0)
    assert [attempt.time for attempt in hook.attempts] == [float(n) for n in range(100 - MAX_ATTEMPTS_KEPT, 100)]
    assert hook.failures == 100
