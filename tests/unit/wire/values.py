"""Values that travel: strategies of specs, and one error of every class."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from flashbulb_server import errors
from flashbulb_server.core.catalog import MAX_SEED, MAX_SIDE
from flashbulb_server.core.generation import ImageToImageSpec, InpaintingSpec, SourceImage, TextToImageSpec

quick = settings(deadline=None, max_examples=40, database=None)

TEXTS = st.text("ab\u00e9 \n\u4e00\U0001f34e", max_size=8)
SHARED = dict(
    model_name=TEXTS.filter(bool),
    prompt=TEXTS.filter(str.strip),
    negative_prompt=TEXTS,
    width=st.integers(1, MAX_SIDE),
    height=st.integers(1, MAX_SIDE),
    num_inference_steps=st.integers(1, 32),
    seed=st.integers(0, MAX_SEED - 7),  # of up to eight pictures, each with its own
    guidance_scale=st.integers(0, 20_000).map(lambda n: n / 1000),
    sync_mode=st.booleans(),
    num_images=st.integers(1, 8),
    enable_safety_checker=st.booleans(),
    safety_checker_version=st.sampled_from(["v1", "v2"]),
    expand_prompt=st.booleans(),
    format=st.sampled_from(["jpeg", "png"]),
    guidance_rescale=st.integers(0, 1000).map(lambda n: n / 1000),
    request_id=TEXTS,
)
SOURCES = st.one_of(
    st.binary(min_size=1, max_size=8).map(lambda content: SourceImage(content=content)),
    st.sampled_from(["https://a.example/b.png", "data:,x", "data:image/png;base64,iVBO"]).map(SourceImage),
)
SPECS = st.one_of(
    st.builds(TextToImageSpec, endpoint=st.just("fast-lcm-diffusion"), **SHARED),
    st.builds(
        ImageToImageSpec,
        endpoint=st.just("fast-lcm-diffusion/image-to-image"),
        image=SOURCES,
        strength=st.integers(50, 1000).map(lambda n: n / 1000),
        preserve_aspect_ratio=st.booleans(),
        crop_output=st.booleans(),
        **SHARED,
    ),
    st.builds(
        InpaintingSpec,
        endpoint=st.just("fast-lcm-diffusion/inpainting"),
        image=SOURCES,
        mask=SOURCES,
        strength=st.integers(10, 1000).map(lambda n: n / 1000),
        **SHARED,
    ),
)

ERRORS = (
    errors.InvalidRequest([errors.FieldViolation("seed", "is bad"), errors.FieldViolation("image_size.width", "too")]),
    errors.BadImage("mask_url", "is no picture"),
    errors.KeyMissing(),
    errors.KeyUnknown(),
    errors.TokenInvalid("it has expired"),
    errors.TokenForbids("omnigen-v1", ["fast-lcm-diffusion"]),
    errors.RequestNotFound("r1"),
    errors.FileNotFound("flashbulb://files/x"),
    errors.RequestNotFinished("r1", "RUNNING"),
    errors.IdempotencyKeyReused("r1"),
    errors.NoWebhook("r1"),
    errors.EndpointUnavailable("omnigen-v1", ["fast-lcm-diffusion"]),
    errors.SafetyCheckerUnavailable("v1", ()),
    errors.QueueFull(100, retry_after=2.5),
    errors.TooManySessions(32),
    errors.TooManyCalls(2000),
    errors.WorkersBusy("all is busy", retry_after=0.25),
    errors.NoWorker(),
    errors.StoreUnavailable("files"),
    errors.Draining(),
    errors.RequestCancelled(2, 4),
    errors.StartTimeout(1.5),
    errors.EngineFailed("it broke"),
    errors.WorkerLost(3),
)
"""One of every class that is raised."""


def leaves(error_class: type[errors.FlashbulbError] = errors.FlashbulbError) -> set[type[errors.FlashbulbError]]:
    """The classes that are raised: those that no other is made of."""
    below = error_class.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {error_class}


def name_of(error: errors.FlashbulbError) -> str:
    """The id of a parameter."""
    return type(error).__name__
