"""Links to files: known on any host, good for their own file only; sealed texts: good for their purpose only."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.core.file_links import Access, FileLinks
from flashbulb_server.core.files import output_key, upload_key

LINKS = FileLinks("a secret")
KEY = upload_key("me", expire_time=1_800_000_000, unique=uuid.uuid4(), file_name="a cat.png")
DRAWN = output_key("me", "0198c7d2-7f3a-7000-8000-0123456789ab", 0, "png")


@pytest.mark.parametrize("base", ["http://127.0.0.1:8080/cdn", "https://v3.fal.media", "https://a.example/below/cdn"])
@pytest.mark.parametrize("key", [KEY, DRAWN], ids=["upload", "picture"])
@pytest.mark.parametrize("after", ["", "?download=1", "#top", "?download=1#until=5"])
def test_a_link_is_known_wherever_it_comes_back(base: str, key: str, after: str) -> None:
    found = LINKS.named_by(f"{base}/{LINKS.path(key)}{after}")
    assert found is not None
    assert found.key.key == key and found.access is Access.ALLOW


@pytest.mark.parametrize("access", list(Access))
def test_access_stands_in_the_link_and_cannot_be_changed(access: Access) -> None:
    path = LINKS.path(KEY, access)
    found = LINKS.named_by(f"http://a/{path}")
    assert found is not None and found.access is access
    assert found.readable_by("me")
    assert found.readable_by("you") is found.readable_by(None) is (access is Access.ALLOW)
    mark = path.split("/")[1]
    for letter in "afh":
        if letter != mark[0]:
            assert LINKS.named_by(f"http://a/{path.replace(mark, letter + mark[1:])}") is None


def test_the_end_of_a_link_cannot_be_changed() -> None:
    url = f"http://a/{LINKS.path(KEY, until=1_800_000_000.7)}"
    found = LINKS.named_by(url)
    assert found is not None and found.until == 1_800_000_000
    assert url.endswith("?until=1800000000")
    assert LINKS.named_by(f"{url}&download=1#top") == found
    for changed in (url[:-1] + "1", url.partition("?")[0], url.replace("until=", "until=0&until="), f"{url}0"):
        assert LINKS.named_by(changed) is None, changed
    assert LINKS.named_by(f"http://a/{LINKS.path(KEY)}?until=1800000000") is None


def test_no_other_link_is_taken_for_one_of_ours() -> None:
    path = LINKS.path(KEY)
    mark = path.split("/")[1]
    others = [
        f"files/{mark}/{DRAWN}",
        path.replace("me/", "you/"),
        FileLinks("another secret").path(KEY),
        f"{path}/multipart/1",
        path.replace("files/", "file/"),
        f"files/{mark}/in/../{KEY}",
        f"files/a{'A' * 22}/{KEY}",
    ]
    assert [other for other in others if LINKS.named_by(f"http://a/{other}")] == []


def test_a_mark_says_nothing_about_the_secret_or_other_marks() -> None:
    marks = {LINKS.path(KEY, access).split("/")[1][1:] for access in Access}
    assert len(marks) == len(Access), "a mark of one access must not be that of another with its letter changed"


@given(
    st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.floats(allow_nan=False) | st.none(), max_size=4)
)
def test_sealed_values_come_back(values: dict[str, object]) -> None:
    text = LINKS.seal("a purpose", values)
    assert LINKS.unseal("a purpose", text) == values
    assert LINKS.unseal("another purpose", text) is None
    assert FileLinks("another secret").unseal("a purpose", text) is None


@given(st.text())
def test_anything_else_is_no_sealed_text(text: str) -> None:
    assert LINKS.unseal("a purpose", text) is None


def test_a_sealed_text_cannot_be_changed() -> None:
    text = LINKS.seal("a purpose", {"owner": "me"})
    for index, character in enumerate(text):
        other = "A" if character != "A" else "B"
        changed = LINKS.unseal("a purpose", text[:index] + other + text[index + 1 :])
        # the last character of either part has bits that stand for nothing
        assert changed is None or changed == {"owner": "me"}
