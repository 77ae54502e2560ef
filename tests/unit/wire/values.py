"""Values that travel: strategies of specs, and one error of every class."""

from __future__ import annotations

from functools import partial

from hypothesis import settings
from hypothesis import strategies as st

from flashbulb_server import errors
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint
from flashbulb_server.core.fields import MAX_SIDE, Field, Kind
from flashbulb_server.core.generation import USES, GenerationSpec, SourceImage

quick = settings(deadline=None, max_examples=40, database=None)

TEXTS = st.text("ab\u00e9 \n\u4e00\U0001f34e", max_size=8)
LINES = st.text("ab\u00e9 \u4e00\U0001f34e", min_size=1, max_size=8).filter(str.strip)
SOURCES = st.one_of(
    st.binary(min_size=1, max_size=8).map(lambda content: SourceImage(content=content)),
    st.sampled_from(["https://a.example/b.png", "data:,x", "data:image/png;base64,iVBO"]).map(SourceImage),
)


def values_of(field: Field) -> st.SearchStrategy[object]:
    """What a spec may hold for a field."""
    low, high = field.minimum or 0, field.maximum or 0
    match field.kind:
        case Kind.TEXT:
            return TEXTS.filter(str.strip) if field.required else TEXTS
        case Kind.INTEGER:
            return st.integers(int(low), int(high) - 7)  # of up to eight pictures, each has its own seed
        case Kind.NUMBER:
            return st.integers(int(low * 1000), int(high * 1000)).map(lambda n: n / 1000)
        case Kind.CHOICE:
            return st.sampled_from(field.choices)
        case kind if kind.many:
            return lists_of(field)
        case kind:
            return PLAIN[kind]


PLAIN = {
    Kind.REFERENCE: LINES,
    Kind.BOOLEAN: st.booleans(),
    Kind.SIZE: st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)),
    Kind.SOURCE: SOURCES,
}


def lists_of(field: Field) -> st.SearchStrategy[object]:
    """Short lists of items."""
    parts = {part.name: values_of(part) for part in field.items}
    items = st.builds(USES[field.name], **parts) if field.objects else values_of(field.items[0])
    return st.lists(items, min_size=1 if field.default else 0, max_size=3).map(tuple)


def specs_of(endpoint: Endpoint) -> st.SearchStrategy[GenerationSpec]:
    """Valid specs of an endpoint."""
    values = {field.name: values_of(field) for field in endpoint.fields} | {"num_images": st.integers(1, 4)}
    return st.builds(partial(GenerationSpec.of, endpoint.id), TEXTS.filter(bool), st.fixed_dictionaries(values))


SPECS = st.one_of([specs_of(endpoint) for endpoint in ENDPOINTS.values()])

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
    errors.NewerRelease("the record of request 'r1'"),
    errors.Draining(),
    errors.RequestCancelled(2, 4),
    errors.StartTimeout(1.5),
    errors.EngineFailed("it broke"),
    errors.WorkerLost(3),
    errors.DataUnreadable("the record of request 'r1'"),
)
"""One of every class that is raised."""


def leaves(error_class: type[errors.FlashbulbError] = errors.FlashbulbError) -> set[type[errors.FlashbulbError]]:
    """The classes that are raised: those that no other is made of."""
    below = error_class.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {error_class}


def name_of(error: errors.FlashbulbError) -> str:
    """The id of a parameter."""
    return type(error).__name__
