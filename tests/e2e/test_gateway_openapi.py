"""The OpenAPI documents hold what they say: calls made of them find no fault of the server and no status that is not documented."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway import LCM
from tests.service import KEY, RunningService

pytestmark = pytest.mark.slow

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def api(quick_service: RunningService) -> schemathesis.BaseSchema:
    """The document of the endpoint that it draws."""
    address = f"http://{quick_service.http_address}/openapi.json?endpoint_id={LCM}"
    return schemathesis.openapi.from_url(address, headers={"authorization": f"Key {KEY}"})


QUICK = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_calls_are_answered_as_documented(api: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:
        try_calls(operation, mode)


def try_calls(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    """Calls of an operation: such as its schema allows, or such as it does not."""

    @QUICK
    @given(operation.as_strategy(generation_mode=mode))
    def answered(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"authorization": f"Key {KEY}"}, checks=CHECKS, timeout=30)

    answered()


async def test_every_endpoint_has_a_document(quick_service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=f"http://{quick_service.http_address}", trust_env=False) as http:
        whole = (await http.get("/openapi.json")).json()
        assert whole["servers"] == [{"url": str(http.base_url)}]
        for address in {path.removeprefix("/run/") for path in whole["paths"] if path.startswith("/run/")}:
            endpoint = address.removesuffix("/stream")
            one = (await http.get("/openapi.json", params={"endpoint_id": endpoint})).json()
            assert one["paths"].items() <= whole["paths"].items()
        unknown = await http.get("/openapi.json", params={"endpoint_id": "fal-ai/other"})
        assert unknown.status_code == 404
        page = await http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "http://" not in page.text.replace("data: http: https:", "") and "https://" not in page.text, (
            "works offline"
        )
