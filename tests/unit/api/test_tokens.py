"""Short-lived tokens: what may be asked for, what they carry, and everything that is not one of ours."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.api.tokens import Grant, Tokens
from flashbulb_server.errors import InvalidRequest, TokenForbids, TokenInvalid

SECRET = "a secret of more than thirty-two characters"
LCM = "fast-lcm-diffusion"
NOW = float(int(time.time()))


KEYS = Keys({"tester": digest("a secret")})


def tokens(secret: str = SECRET, at: float = NOW, keys: Keys = KEYS) -> Tokens:
    return Tokens(secret, keys, clock=lambda: at)


def forged(secret: str = SECRET, algorithm: str = "HS256", **changes: object) -> str:
    own = {"sub": "tester", "key": KEYS.mark("tester"), "aud": "flashbulb", "exp": int(NOW) + 100, "endpoints": [LCM]}
    claims = {**own, **changes}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, algorithm=algorithm)


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def test_a_token_says_who_for_what_and_for_how_long() -> None:
    token = tokens().create("tester", [LCM, LCM], 60)
    assert token.expire_time == NOW + 60
    assert tokens().read(token.text) == Grant("tester", frozenset({LCM}), NOW + 60)


def test_it_lives_two_minutes_unless_told_otherwise_and_never_shorter_than_asked() -> None:
    assert tokens().create("tester", [LCM], None).expire_time == NOW + 120
    assert tokens(at=NOW + 0.9).create("tester", [LCM], 1).expire_time == NOW + 2


@pytest.mark.parametrize("lifetime", [0.0, 0.999, 3600.001, -5.0, float("inf"), float("nan"), 1e300])
def test_every_bad_field_is_named_at_once(lifetime: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokens().create("tester", ["nothing", LCM], lifetime)
    assert [violation.field for violation in caught.value.violations] == ["allowed_endpoints", "lifetime"]
    assert LCM in caught.value.violations[0].description, "says what there is"


@pytest.mark.parametrize("endpoints", [[], [LCM] * 33, [""], ["Fast-LCM-Diffusion"]])
def test_one_to_thirty_two_known_endpoints(endpoints: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokens().create("tester", endpoints, 1)
    assert [violation.field for violation in caught.value.violations] == ["allowed_endpoints"]
    assert tokens().create("tester", [LCM] * 32, 3600).text


def test_an_expired_token_is_refused() -> None:
    old = tokens(at=NOW - 100).create("tester", [LCM], 60).text
    with pytest.raises(TokenInvalid, match="expired"):
        tokens().read(old)


@pytest.mark.parametrize(
    "later",
    [{}, {"other": digest("a secret")}, {"tester": digest("another secret")}],
    ids=["gone", "moved", "replaced"],
)
def test_a_token_ends_with_the_key_that_made_it(later: dict[str, str]) -> None:
    text = tokens().create("tester", [LCM], 60).text
    with pytest.raises(TokenInvalid, match="the key that made it is gone"):
        tokens(keys=Keys(later)).read(text)


NOT_OURS = {
    "another secret": forged("another secret of more than thirty-two characters"),
    "no signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'sub': 'tester', 'aud': 'flashbulb', 'exp': 2**40})}.",
    "another algorithm": forged(SECRET * 2, "HS512"),
    "another audience": forged(aud="somebody"),
    "no audience": forged(aud=None),
    "no subject": forged(sub=None),
    "no end": forged(exp=None),
    "no key": forged(key=None),
    "an empty key": forged(key=""),
    "another key": forged(key="0" * 16),
    "nobody's": forged(sub="nobody", key=""),
    "an end that is no time": f"{part({'alg': 'HS256'})}.{part({'exp': 'never'})}.{part('x')}",
    "empty": "",
    "a key": "tester:a-secret-of-the-tests",
    "dots": "...",
    "no base64": "ä.ö.ü",
    "not JSON": f"{part('{')}.{part('{')}.{part('x')}",
    "a list": f"{part([1])}.{part([1])}.{part('x')}",
    "nested deeply": f"{part('[' * 100_000)}.{part('{}')}.{part('x')}",
    "long": "a" * 100_000,
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_no_token_of_ours_is_refused(name: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        tokens().read(NOT_OURS[name])
    assert len(caught.value.message) < 200, "nothing of it is quoted"


def test_changing_any_part_breaks_it() -> None:
    header, claims, signature = tokens().create("tester", [LCM], 60).text.split(".")
    wider = json.loads(base64.urlsafe_b64decode(claims + "=="))
    wider["endpoints"].append("fast-lcm-diffusion/inpainting")
    for text in (f"{header}.{part(wider)}.{signature}", f"{header}.{claims}.", f"{header}.{claims}.{signature[::-1]}"):
        with pytest.raises(TokenInvalid):
            tokens().read(text)


def test_a_token_without_endpoints_is_good_for_none() -> None:
    grant = tokens().read(forged(endpoints=None))
    with pytest.raises(TokenForbids):
        grant.check(LCM)


def test_a_server_without_a_secret_makes_its_own() -> None:
    one, other = tokens(""), tokens("")
    text = one.create("tester", [LCM], 60).text
    assert one.read(text).owner == "tester"
    with pytest.raises(TokenInvalid):
        other.read(text)


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_no_text_is_more_than_refused(text: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens().read(text)


def test_a_grant_checks_endpoints() -> None:
    Grant("tester").check("anything")
    Grant("tester", frozenset({LCM})).check(LCM)
    with pytest.raises(TokenForbids) as caught:
        Grant("tester", frozenset({LCM})).check("fast-lcm-diffusion/inpainting")
    assert caught.value.metadata == {"wanted": "fast-lcm-diffusion/inpainting", "allowed": LCM}
