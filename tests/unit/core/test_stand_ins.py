"""When the embedded model stands in for those that hosted endpoints name, and what a spec says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashbulb_server.core.catalog import EMBEDDED_MODEL, ENDPOINTS, ModelInfo, declared_model
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.stand_ins import with_stand_ins
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import EndpointUnavailable, InvalidRequest
from flashbulb_server.wire.inputs import named_model, to_input, to_spec

LCM = ("fast-lcm-diffusion", "fast-lcm-diffusion/image-to-image", "fast-lcm-diffusion/inpainting")
SDXL, SD15 = "stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"
TINY = ModelInfo(EMBEDDED_MODEL, LCM, 128, True, 4_194_304, "EXACT", safe_by_construction=True)
HERE = LCM[0]
ASKED = {"prompt": "x", "model_name": SDXL, "seed": 1}


def model(name: str, *endpoints: str) -> ModelInfo:
    return ModelInfo(name, endpoints, 512, False, 4_194_304, "EXACT", safe_by_construction=True)


def test_hosted_names_are_those_of_the_hosted_page():
    for endpoint in ENDPOINTS.values():
        names = any(field.name == "model_name" for field in endpoint.fields)
        assert endpoint.hosted_models == ((SDXL, SD15) if names else ())


def test_alone_it_stands_in_for_all_hosted_names():
    (tiny,) = with_stand_ins([TINY])
    assert tiny == replace(TINY, stands_in_for=(SDXL, SD15))


def test_where_another_model_runs_the_endpoint_it_stands_in_for_none():
    for other in (model("some/lcm", HERE), model(SDXL, HERE), declared_model("some/declared", ())):
        assert with_stand_ins([other, TINY]) == [other, TINY]


def test_models_of_other_endpoints_change_nothing_but_for_their_own_names():
    flux, named = model("some/flux", "flux-lora"), model(SD15, "stable-diffusion-v15")
    found = with_stand_ins([flux, TINY, named])
    assert [m.stands_in_for for m in found] == [(), (SDXL,), ()]


def test_without_the_embedded_model_there_is_no_stand_in():
    flux = model("some/flux", "flux-lora")
    assert with_stand_ins([flux]) == [flux]
    assert with_stand_ins([]) == []


@pytest.mark.parametrize("endpoint", LCM)
@pytest.mark.parametrize("name", [SDXL, SD15])
def test_a_spec_knows_what_was_asked_for_and_what_draws(endpoint, name):
    picture = SourceImage("https://a.example/b.png")
    given = {**ASKED, "model_name": name, "image_url": picture, "mask_url": picture}
    spec = resolve(endpoint, given, with_stand_ins([TINY]))
    assert (spec.model_name, spec.asked_model) == (EMBEDDED_MODEL, name)
    assert named_model(to_input(spec)) == name, "the echo is what was asked for"
    assert to_spec(to_input(spec), spec.model_name) == spec


def test_what_draws_itself_is_no_stand_in():
    for given in ({"prompt": "x"}, {"prompt": "x", "model_name": EMBEDDED_MODEL}):
        spec = resolve(HERE, given, with_stand_ins([TINY]))
        assert (spec.model_name, spec.asked_model) == (EMBEDDED_MODEL, "")
    installed = model(SDXL, HERE)
    spec = resolve(HERE, ASKED, with_stand_ins([TINY, installed]))
    assert (spec.model_name, spec.asked_model) == (SDXL, "")


def test_without_leave_a_hosted_name_is_refused_as_any_other():
    for given, models in ((ASKED, [TINY]), ({**ASKED, "model_name": "no/model"}, with_stand_ins([TINY]))):
        with pytest.raises(InvalidRequest) as caught:
            resolve(HERE, given, models)
        (violation,) = caught.value.violations
        assert (violation.field, violation.type) == ("model_name", "one_of")


@pytest.mark.parametrize("endpoint", ["flux-lora", "omnigen-v1", "stable-diffusion-v15"])
def test_what_the_embedded_model_cannot_draw_at_all_stays_unavailable(endpoint):
    with pytest.raises(EndpointUnavailable):
        resolve(endpoint, {"prompt": "x"}, with_stand_ins([TINY]))
