"""A body that is known by its bytes means what it says."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from headwater.catalog import Catalog, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.errors import BadRequestError
from headwater.settings import Settings
from service.feature_log import FeatureLogs
from service.metrics import Metrics
from service.vectors import JSON, Vectors, parse

VIEWS = {
    name: ViewPlan(
        name, "row", (JoinKeyPlan(key, kind),), (FieldPlan(f"{name}_x", "DOUBLE"),)
    )
    for name, key, kind in (
        ("whole", "id", "INT64"), ("text", "name", "STRING"), ("real", "at", "DOUBLE"),
        ("same", "id", "INT64"), ("short", "nr", "INT32"),
    )
}  # fmt: skip
VIEWS["pair"] = ViewPlan(
    "pair", "row", (JoinKeyPlan("a", "INT64"), JoinKeyPlan("b", "INT64")),
    (FieldPlan("pair_x", "DOUBLE"),),
)  # fmt: skip
VIEWS["none"] = ViewPlan("none", "row", (), (FieldPlan("none_x", "DOUBLE"),))
CATALOG = Catalog("shapes", "1", "", "", views=VIEWS)
NUMBERS = [
    b"7", b"0", b"123456789012345678", b"07", b"00", b"-1", b"1.5", b"1e3", b" 7", b"7 ", b"+7",
    b"9223372036854775808", b"1234567890123456789", "٣".encode(), b"7,8", b"", b"null", b"true",
    b'"7"', b"[7]", b"7]", b'7],"x":[1', b'7]},"entities":{"id":[9',
]  # fmt: skip
TEXTS = [
    b'"b"', b'""', b'"a b~!"', b'"a}{"', b'"[x"', b'"x]"', b'"a\\"b"', b'"\\u0041"', b'"\\\\"',
    '"é"'.encode(), b'"a\x01"', b'"a","b"', b'"a', b"7", b"null", b'""""', b'"a"],"name":["c"',
]  # fmt: skip


def service() -> Vectors:
    metrics = Metrics()
    vectors = Vectors(Settings(), metrics, FeatureLogs(Settings(), metrics, ""))
    vectors.use(CATALOG)
    vectors.warm()
    return vectors


def meaning(vectors: Vectors, body: bytes) -> Any:
    try:
        known = vectors.understand(body, JSON)
    except BadRequestError as error:
        return str(error)
    names = [output.name for output in known.prepared.plan.outputs]
    return names, known.n, known.entities, known.commands, known.head, known.provenance


def around(key: str, features: list[str], **more: Any) -> tuple[bytes, bytes]:
    body = json.dumps({"features": features, "entities": {key: ["@"]}, **more}).encode()
    before, after = body.split(b'"@"')
    return before, after


@pytest.mark.parametrize(
    ("key", "features", "first", "tokens"),
    [
        ("id", ["whole:whole_x"], b"5", NUMBERS),
        ("id", ["whole:whole_x", "same:same_x"], b"5", NUMBERS),
        ("nr", ["short:short_x"], b"5", [*NUMBERS, b"2147483647", b"2147483648"]),
        ("name", ["text:text_x"], b'"a"', TEXTS),
        ("at", ["real:real_x"], b"5", NUMBERS),
    ],
)
@pytest.mark.parametrize(
    "more", [{}, {"full_feature_names": True}, {"provenance": True}, {"entities2": {"id": 1}}]
)
def test_other_keys_in_a_known_body_mean_what_they_mean_to_a_reader_of_json(
    key: str, features: list[str], first: bytes, tokens: list[bytes], more: dict[str, Any]
) -> None:
    before, after = around(key, features, **more)
    used = service()
    assert meaning(used, before + first + after) == meaning(service(), before + first + after)
    for token in tokens:
        body = before + token + after
        assert meaning(used, body) == meaning(service(), body), token


def test_only_the_key_makes_a_difference_once_a_body_is_known() -> None:
    for key, features, tokens in (
        ("id", ["whole:whole_x"], (b"5", b"6")), ("name", ["text:text_x"], (b'"a"', b'"b"')),
    ):  # fmt: skip
        before, after = around(key, features)
        used = service()
        assert used.shapes.find(before + tokens[0] + after) is None
        used.understand(before + tokens[0] + after, JSON)
        assert used.shapes.find(before + tokens[1] + after) is not None
        used.use(CATALOG)
        assert used.shapes.find(before + tokens[1] + after) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"entities":{"id":[5]},"features":["whole:whole_x"],"entities":{"id":[@]}}',
        b'{"entities":{"id":[@]},"features":["whole:whole_x"],"entities":{"id":[5]}}',
        b'{"entities":{"id":[@]},"features":["whole:whole_x"]}',
        b'{"features":["whole:whole_x"],"entities":{"id":[1],"id":[@]}}',
        b'{"features":["whole:whole_x"],"entities":{"id":[@],"id":[1]}}',
        b'{"features":["whole:whole_x"],"entities":{"id":[5]},"more":[@]}',
        b'{"features":["whole:whole_x"],"entities":{"id":[5]},"provenance":[@]}',
        b'{"features":["whole:whole_x"],"entities":{"id":[5]},"full_feature_names":[@]}',
        b'{"features":["whole:whole_x"],"entities":{"id":[@]},"full_feature_names":1}',
        b'{"features":["pair:pair_x"],"entities":{"a":[@],"b":[1]}}',
        b'{"features":["pair:pair_x"],"entities":{"a":[1],"b":[@]}}',
        b'{"features":["none:none_x"],"entities":{},"more":[@]}',
    ],
)
def test_bodies_that_only_look_alike(body: bytes) -> None:
    used = service()
    for token in (b"5", b"6", b"7"):
        text = body.replace(b"@", token)
        assert meaning(used, text) == meaning(service(), text)


@pytest.mark.parametrize(
    "body",
    [
        b'{"features":["pair:pair_x"],"entities":{"a":[1],"b":[2]}}',
        b'{"features":["none:none_x"],"entities":{}}',
    ],
)
def test_views_of_two_keys_and_of_none_are_understood_again_and_again(body: bytes) -> None:
    used = service()
    names, n, *_ = meaning(used, body)
    assert (len(names), n) == (1, 1)
    assert meaning(used, body) == meaning(service(), body)


def test_a_compressed_body_is_called_so() -> None:
    with pytest.raises(BadRequestError, match="it is compressed") as refused:
        parse(gzip.compress(b"{}"))
    assert refused.value.status == 400
