"""Who may call."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.config import ApiSettings
from flashbulb_server.errors import KeyMissing, KeyUnknown

KEYS = Keys({"demo": digest("secret"), "other": digest("a:b c")})


@pytest.mark.parametrize(
    ("authorization", "key_id"),
    [
        ("Key demo:secret", "demo"),
        ("key demo:secret", "demo"),
        ("KEY  demo:secret ", "demo"),
        (b"Key demo:secret", "demo"),
        ("Key other:a:b c", "other"),
    ],
)
def test_a_key_is_known(authorization, key_id):
    assert KEYS.authenticate(authorization) == key_id


@pytest.mark.parametrize(
    "authorization",
    [None, "", b"", "demo:secret", "Key", "Key ", "Key demo", "Key demo:", "Bearer demo:secret", "Keydemo:secret", "Key\tdemo:secret"],
)  # fmt: skip
def test_a_key_is_missing(authorization):
    with pytest.raises(KeyMissing):
        KEYS.authenticate(authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        "Key demo:secre",
        "Key demo:secret!",
        "Key demo:SECRET",
        "Key other:secret",
        "Key nobody:secret",
        "Key :secret",
        "Key DEMO:secret",
        b"Key demo:\xff\xfe",
        f"Key demo:{digest('secret')}",
    ],
)
def test_a_key_is_unknown(authorization):
    with pytest.raises(KeyUnknown) as caught:
        KEYS.authenticate(authorization)
    assert (str(caught.value), caught.value.metadata) == ("the key is not known", {})  # not which half is wrong


def test_no_keys_let_nobody_in():
    empty = Keys({})
    assert len(empty) == 0
    with pytest.raises(KeyUnknown):
        empty.authenticate("Key demo:secret")


def test_a_digest_is_sha256_in_hex():
    assert digest("secret") == hashlib.sha256(b"secret").hexdigest()


@pytest.mark.parametrize("key_id", ["a", "A-Z_09", "x" * 64])
def test_ids(key_id):
    assert Keys({key_id: digest("s")}).authenticate(f"Key {key_id}:s") == key_id


@pytest.mark.parametrize("key_id", ["", "x" * 65, "a.b", "a/b", "a b", "a*", ">", "a\n", "\u00e9", "a\u0661"])
def test_ids_that_cannot_be_part_of_a_subject(key_id):
    with pytest.raises(ValueError, match="ids of keys"):
        Keys({key_id: digest("s")})


@pytest.mark.parametrize("held", ["", "secret", digest("s").upper(), digest("s") + "\n", digest("s")[1:], None, 5])
def test_digests_of_another_form(held):
    with pytest.raises(ValueError, match="not so: demo") as caught:
        Keys({"demo": held})
    assert "secret" not in str(caught.value)  # it may be a secret that was put there by mistake


def load(keys: str = "", keys_file=None) -> Keys:
    return Keys.load(ApiSettings(keys=SecretStr(keys), keys_file=keys_file))


def test_keys_of_the_settings():
    keys = load(" a:one , ,b:two:three,")
    assert len(keys) == 2
    assert keys.authenticate("Key a:one") == "a"
    assert keys.authenticate("Key b:two:three") == "b"
    assert len(load()) == 0


@pytest.mark.parametrize("entry", ["secret", "a:", "a:one,secret", ":secret", "b c:secret"])
def test_bad_keys_of_the_settings(entry):
    with pytest.raises(ValueError, match="FLASHBULB_API__KEYS") as caught:
        load(entry)
    assert "secret" not in str(caught.value).removeprefix("FLASHBULB_API__KEYS holds an entry that is not id:secret")


def test_keys_of_a_file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"a": digest("one"), "b": digest("two")}))
    keys = load("b:three,c:four", path)
    assert len(keys) == 3
    assert keys.authenticate("Key a:one") == "a"
    assert keys.authenticate("Key b:three") == "b"  # the settings come after the file
    with pytest.raises(KeyUnknown):
        keys.authenticate("Key b:two")


def test_a_file_that_is_not_there_holds_no_keys(tmp_path):
    assert len(load("a:one", tmp_path / "none.json")) == 1


@pytest.mark.parametrize("text", ["", "[]", '["a"]', "null", '{"a": 5}', '{"a": "one"}', '{"a": ', '{"a b": ""}'])
def test_bad_files(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"FLASHBULB_API__KEYS_FILE: {path}: ")):
        load(keys_file=path)


def test_a_mark_tells_keys_of_one_id_apart_and_says_nothing_of_the_secret():
    one, other = (Keys({"a": digest(secret)}) for secret in ("one", "two"))
    assert one.mark("a") == Keys({"a": digest("one"), "b": digest("x")}).mark("a") != other.mark("a")
    assert one.mark("b") == ""
    assert len(one.mark("a")) == 16 and one.mark("a") not in digest("one")


class Followed:
    """Keys that are followed; `ended` holds what was told."""

    def __init__(self, path: Path, keys: str = "") -> None:
        self.keys = load(keys, path)
        self.ended = asyncio.Queue[frozenset[str]]()

    async def __aenter__(self) -> Followed:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._task = self._group.create_task(self.keys.follow(self.ended.put_nowait))
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._task.cancel()
        await self._group.__aexit__(*failure)

    def good(self, key: str) -> bool:
        try:
            return bool(self.keys.authenticate(f"Key {key}"))
        except KeyUnknown:
            return False

    async def until_good(self, key: str) -> None:
        async with asyncio.timeout(10):
            while not self.good(key):
                await asyncio.sleep(0.01)


def write(path: Path, **secrets: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(json.dumps({key_id: digest(secret) for key_id, secret in secrets.items()}))
    draft.replace(path)


@pytest.mark.slow
async def test_a_file_is_followed(tmp_path):
    path = tmp_path / "keys.json"
    async with Followed(path, "own:one") as followed:
        write(path, a="one", b="two", own="other")
        await followed.until_good("a:one")
        assert followed.good("own:one") and not followed.good("own:other"), "the settings go over the file"
        write(path, a="new", c="three")
        async with asyncio.timeout(10):
            assert await followed.ended.get() == {"a", "b"}
        assert [followed.good(key) for key in ("a:one", "a:new", "b:two", "c:three", "own:one")] == [0, 1, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", '{"a": "secret"}', None], ids=["empty", "half", "no digest", "gone"])
async def test_a_file_that_cannot_be_read_changes_nothing(tmp_path, text, caplog):
    path = tmp_path / "keys.json"
    write(path, a="one")
    async with Followed(path) as followed:
        path.unlink() if text is None else path.write_text(text)
        async with asyncio.timeout(10):
            while "cannot be read" not in caplog.text:
                await asyncio.sleep(0.01)
        assert followed.good("a:one")
        write(path, b="two")
        await followed.until_good("b:two")
        assert not followed.good("a:one")
    assert caplog.text.count("cannot be read") == 1
