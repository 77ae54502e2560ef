"""Links in what is sent unasked: to the store, or to the gateway where everybody reaches it."""

from __future__ import annotations

import pytest

from flashbulb_server.api.results import Results
from flashbulb_server.config import FilesSettings
from flashbulb_server.core.files import output_key
from flashbulb_server.core.generation import DrawnImage, GenerationResult
from flashbulb_server.storage.file_store import FileStore
from tests.specs import make_spec

KEY = output_key("me", "0198c7d2-7f3a-7000-8000-0123456789ab", 0, "png")


@pytest.mark.parametrize("gateway", ["https://a.example/below", "https://a.example/below/"])
def test_links_go_to_the_gateway_where_it_is_known(gateway: str) -> None:
    store = FileStore(FilesSettings(), clock=lambda: 1_800_000_000.0)
    image = DrawnImage("image/png", 128, 128, 128, 128, 4, 7, key=KEY)
    result = GenerationResult(make_spec(), (image,), (False,), "EXACT", 1.0)
    [linked] = Results(store, url_seconds=60, gateway_url=gateway).linked(result).images
    assert linked.url.startswith("https://a.example/below/cdn/files/")
    found = store.links.named_by(linked.url)
    assert found is not None and found.key.key == KEY
    assert found.until == linked.url_expire_time == 1_800_000_060
    [stored] = Results(store, url_seconds=60).linked(result).images
    assert store.key_of(stored.url) == KEY and stored.url_expire_time == 1_800_000_060
