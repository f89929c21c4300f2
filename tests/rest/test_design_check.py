"""Tests of `patterns/rest/design_check.py`; they can be copied along with it."""

import contextlib
import copy
import datetime
import inspect
import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.rest import design_check

CLEAN = b"""
openapi: 3.1.0
info: {title: Orders, version: 1.0.0}
servers: [{url: https://api.example.com}]
security: [{bearer: []}]
paths:
  /orders:
    get:
      operationId: list-orders
      parameters:
        - {name: page_token, in: query, schema: {type: string}}
        - {name: limit, in: query, schema: {type: integer, maximum: 100}}
      responses:
        "200":
          description: A page of orders.
          content:
            application/json:
              schema:
                type: object
                properties:
                  items: {type: array, items: {$ref: "#/components/schemas/Order"}}
                  next_page_token: {type: string}
        4XX: {$ref: "#/components/responses/Problem"}
        "429": {$ref: "#/components/responses/TooMany"}
    post:
      operationId: create-order
      parameters: [{name: Idempotency-Key, in: header, schema: {type: string}}]
      requestBody: {$ref: "#/components/requestBodies/Order"}
      responses:
        "201":
          description: Made.
          headers: {Location: {schema: {type: string}}}
        4XX: {$ref: "#/components/responses/Problem"}
  /orders/{order_id}:
    parameters: [{$ref: "#/components/parameters/order"}]
    get:
      operationId: get-order
      responses:
        "200":
          description: An order.
          headers: {etag: {schema: {type: string}}}
          content:
            application/json: {schema: {$ref: "#/components/schemas/Order"}}
        4XX: {$ref: "#/components/responses/Problem"}
    put:
      operationId: replace-order
      parameters: [{name: If-Match, in: header, schema: {type: string}}]
      requestBody: {$ref: "#/components/requestBodies/Order"}
      responses:
        "200": {description: Replaced.}
        "412": {$ref: "#/components/responses/Problem"}
        "429": {$ref: "#/components/responses/TooMany"}
    delete:
      operationId: delete-order
      responses:
        "202":
          description: Under way.
          headers: {Location: {schema: {type: string}}}
        "204": {description: Gone.}
        default: {$ref: "#/components/responses/Problem"}
  /orders/{order_id}/line-items:
    parameters: [{$ref: "#/components/parameters/order"}]
    get:
      operationId: list-line-items
      deprecated: true
      responses:
        "200":
          description: All of them.
          headers:
            Sunset: {schema: {type: string}}
          content:
            application/json:
              schema: {type: array, maxItems: 50, items: {type: string}}
        4XX: {$ref: "#/components/responses/Problem"}
components:
  parameters:
    order: {name: order_id, in: path, required: true, schema: {type: string}}
  requestBodies:
    Order:
      content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}
  responses:
    Problem:
      description: A problem.
      content: {application/problem+json: {schema: {type: object}}}
    TooMany:
      description: Too many.
      headers: {Retry-After: {schema: {type: integer}}}
      content: {application/problem+json: {schema: {type: object}}}
  schemas:
    Order:
      type: object
      properties:
        id: {type: string}
        amount: {type: string, examples: ["9.99"]}
        created_at: {type: string, format: date-time}
        parts: {type: array, items: {$ref: "#/components/schemas/Order"}}
  securitySchemes:
    bearer: {type: http, scheme: bearer}
"""
DOCUMENT = design_check.load(CLEAN)
GONE = object()

ORDERS, ORDER, ITEMS = (
    "/paths/~1orders",
    "/paths/~1orders~1{order_id}",
    "/paths/~1orders~1{order_id}~1line-items",
)
SCHEMA = "/components/schemas/Order/properties"
OK = {"description": "Fine."}
BODY = {"content": {"application/json": {"schema": {"type": "object"}}}}


def carrying(schema, kind="application/json"):
    """Return a body or a response with this schema."""
    return {"description": "It.", "content": {kind: {"schema": schema}}}


LIST = {"type": "array", "items": {"type": "string"}}
ITEMIZED = carrying({"type": "object", "properties": {"items": LIST}})
ETAGGED = carrying({"type": "object", "properties": {"etag": {"type": "string"}}})


def changed(edits, document=DOCUMENT):
    """Return a copy of the document with values at pointers put in or taken out."""
    made = copy.deepcopy(document)
    for pointer, value in edits.items():
        *way, last = [
            token.replace("~1", "/").replace("~0", "~")
            for token in pointer.split("/")[1:]
        ]
        at = made
        for token in way:
            at = at[int(token)] if isinstance(at, list) else at[token]
        if value is GONE:
            del at[last]
        elif isinstance(at, list):
            at.insert(int(last), value)
        else:
            at[last] = value
    return made


def at(document, pointer):
    """Return the element at a pointer (RFC 6901 §4)."""
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        document = (
            document[int(token)] if isinstance(document, list) else document[token]
        )
    return document


def found(document, **options):
    """Return the rules and pointers of the findings."""
    return [(f.rule, f.pointer) for f in design_check.check(document, **options)]


def renamed(old, new):
    """Return the document with one path under another name."""
    made = copy.deepcopy(DOCUMENT)
    made["paths"] = {new if k == old else k: v for k, v in made["paths"].items()}
    return made


def test_clean():
    """The document that all defects are planted in has none."""
    assert design_check.check(DOCUMENT) == []


PLANTED = [
    ("valid", {"/info/version": GONE}, "/info"),
    (
        "reference",
        {f"{SCHEMA}/parts/items": {"$ref": "#/components/schemas/Odrer"}},
        f"{SCHEMA}/parts/items/$ref",
    ),
    (
        "reference",
        {f"{SCHEMA}/parts/items": {"$ref": "https://a.example/b.json"}},
        f"{SCHEMA}/parts/items/$ref",
    ),
    (
        "reference",
        {"/components/schemas/Loop": {"$ref": "#/components/schemas/Loop"}},
        "/components/schemas/Loop/$ref",
    ),
    ("path-case", {"/paths/~1sales_orders": {}}, "/paths/~1sales_orders"),
    ("path-case", {"/paths/~1SalesOrders": {}}, "/paths/~1SalesOrders"),
    ("path-verb", {"/paths/~1orders~1create-all": {}}, "/paths/~1orders~1create-all"),
    ("path-verb", {"/paths/~1fetch": {}, "/paths/~1": {}}, "/paths/~1fetch"),
    ("path-form", {"/paths/~1drafts~1": {}}, "/paths/~1drafts~1"),
    ("path-form", {"/paths/~1a~1~1b": {}}, "/paths/~1a~1~1b"),
    ("path-form", {"/paths/~1report.json": {}}, "/paths/~1report.json"),
    ("safe-method", {f"{ORDERS}/get/requestBody": BODY}, f"{ORDERS}/get/requestBody"),
    (
        "safe-method",
        {f"{ORDER}/delete/requestBody": BODY},
        f"{ORDER}/delete/requestBody",
    ),
    (
        "safe-method",
        {f"{ORDERS}/get/operationId": "orders/createThem"},
        f"{ORDERS}/get/operationId",
    ),
    (
        "query-method",
        {
            f"{ORDERS}/post/operationId": "searchOrders",
            f"{ORDERS}/post/responses/200": OK,
            f"{ORDERS}/post/responses/201": GONE,
        },
        f"{ORDERS}/post",
    ),
    ("idempotency-key", {f"{ORDERS}/post/parameters": GONE}, f"{ORDERS}/post"),
    (
        "idempotency-key",
        {
            f"{ORDERS}/post/parameters": GONE,
            f"{ORDERS}/post/responses/200": OK,
            f"{ORDERS}/post/responses/201": GONE,
        },
        f"{ORDERS}/post",
    ),
    (
        "location",
        {f"{ORDERS}/post/responses/201/headers": GONE},
        f"{ORDERS}/post/responses/201",
    ),
    (
        "location",
        {f"{ORDER}/delete/responses/202/headers": GONE},
        f"{ORDER}/delete/responses/202",
    ),
    (
        "no-content",
        {f"{ORDER}/delete/responses/204/content": BODY["content"]},
        f"{ORDER}/delete/responses/204/content",
    ),
    (
        "error-as-success",
        {f"{ORDER}/put/responses/200/content": {"application/problem+json": {}}},
        f"{ORDER}/put/responses/200/content/application~1problem+json",
    ),
    (
        "error-as-success",
        {f"{SCHEMA}/success": {"type": "boolean"}, f"{SCHEMA}/error": {}},
        f"{SCHEMA}/success",
    ),
    (
        "responses",
        {
            f"{ORDERS}/post/responses/4XX": GONE,
            f"{ORDERS}/post/responses/429": {"$ref": "#/components/responses/TooMany"},
            f"{ORDERS}/post/responses/201": GONE,
        },
        f"{ORDERS}/post/responses",
    ),
    (
        "problem-details",
        {f"{ORDERS}/get/responses/404": {**OK, **BODY}},
        f"{ORDERS}/get/responses/404/content",
    ),
    (
        "page-token",
        {
            f"{ORDERS}/get/parameters/0/name": "sort",
            f"{ORDERS}/get/responses/200": carrying(LIST, "*/*"),
        },
        f"{ORDERS}/get",
    ),
    (
        "problem-details",
        {f"{ORDER}/get/responses": {"302": OK, "default": OK}},
        f"{ORDER}/get/responses/default",
    ),
    (
        "problem-details",
        {f"{ORDERS}/get/responses/404": OK},
        f"{ORDERS}/get/responses/404",
    ),
    (
        "page-token",
        {
            f"{ORDERS}/get/parameters/0/name": "sort",
            f"{ORDERS}/get/responses/200/content/application~1json/schema/properties/"
            "next_page_token": GONE,
        },
        f"{ORDERS}/get",
    ),
    ("page-size", {f"{ORDERS}/get/parameters/1/name": "sort"}, f"{ORDERS}/get"),
    (
        "page-size",
        {f"{ORDERS}/get/parameters/1/schema/maximum": GONE},
        f"{ORDERS}/get/parameters/1",
    ),
    ("if-match", {f"{ORDER}/put/parameters": GONE}, f"{ORDER}/put"),
    ("if-match", {f"{ORDER}/put/responses/412": GONE}, f"{ORDER}/put/responses"),
    (
        "etag",
        {f"{ORDER}/get/responses/200/headers": GONE},
        f"{ORDER}/get/responses/200",
    ),
    (
        "too-many-requests",
        {f"{ORDER}/put/responses/429": GONE},
        f"{ORDER}/put/responses",
    ),
    (
        "retry-after",
        {"/components/responses/TooMany/headers": {}},
        "/components/responses/TooMany",
    ),
    (
        "retry-after",
        {f"{ORDER}/delete/responses/503": {"$ref": "#/components/responses/Problem"}},
        "/components/responses/Problem",
    ),
    ("deprecation", {f"{ITEMS}/get/responses/200/headers": GONE}, f"{ITEMS}/get"),
]


@pytest.mark.parametrize(
    ("rule", "edits", "pointer"), PLANTED, ids=[f"{r}-{p}" for r, _, p in PLANTED]
)
def test_planted_defects(rule, edits, pointer):
    """Each defect gives the finding of its rule, at its element, and no other."""
    document = changed(edits)
    assert found(document) == [(f"rest/{rule}", pointer)]
    at(document, pointer)


def test_every_rule_has_a_planted_defect():
    """No rule is without a defect that shows what it finds."""
    planted = {f"rest/{rule}" for rule, _, _ in PLANTED} | {"rest/path-plural"}
    assert {rule.id for rule in design_check.RULES} == planted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/order/{id}", True),
        ("/order/{id}/", True),
        ("/address/{id}", True),
        ("/analysis/{id}", True),
        ("/apis/{id}", False),
        ("/people/{id}", False),
        ("/sales-order/{id}", True),
        ("/projectsV2/{id}", False),
        ("/v1/{id}", False),
        ("/blocked_by/{id}", False),
        ("/shop/{id}/{item}", False),
    ],
)
def test_plurals(path, wanted):
    """A collection has a plural; what looks one thing up by another has not."""
    edits = {f"/paths/{path.replace('/', '~1')}": {"delete": {}}}
    rules = {"rest/path-plural"}
    assert bool(found(changed(edits), select=rules)) is wanted


def test_a_path_alone_is_no_collection():
    """`/tarball/{ref}` is none; beside a `/tarball` it is one."""
    item, rules = {"/paths/~1tarball~1{ref}": {"get": {}}}, ["rest/path-plural"]
    assert found(changed(item), select=rules) == []
    both = changed(item | {"/paths/~1tarball": {"get": {}}})
    assert found(both, select=rules) == [
        ("rest/path-plural", "/paths/~1tarball~1{ref}")
    ]


@pytest.mark.parametrize(
    ("rule", "edits"),
    [
        ("path-case", {ITEMS: GONE, "/paths/~1a_b": {}, "/paths/~1c": {}}),
        ("path-verb", {"/paths/~1orders~1{order_id}:cancel": {}}),
        ("path-verb", {"/paths/~1add-ons": {}, "/paths/~1settings": {}}),
        ("path-form", {"/paths/~1": {}, "/paths/~1.well-known~1a.json": {}}),
        ("path-form", {"/paths/~1openapi.json": {}}),
        ("safe-method", {f"{ORDERS}/post/operationId": "x/updateAll"}),
        ("location", {f"{ORDER}/put/responses/201": OK}),
        ("location", {f"{ORDERS}/post/responses/202": {**OK, **BODY}}),
        ("no-content", {f"{ORDER}/delete/responses/204/content": {}}),
        ("error-as-success", {f"{SCHEMA}/success": {"type": "boolean"}}),
        ("responses", {f"{ORDERS}/options": {"responses": {"204": OK}}}),
        ("problem-details", {f"{ORDERS}/head": {"responses": {"404": OK}}}),
        ("problem-details", {f"{ORDERS}/put": {"responses": {"default": OK}}}),
        ("page-token", {f"{ORDERS}/get/parameters/0/name": "page[cursor]"}),
        ("page-size", {f"{ORDERS}/get/parameters/1/name": "page[size]"}),
        (
            "if-match",
            {f"{ORDER}/put/requestBody": GONE, f"{ORDER}/put/parameters": GONE},
        ),
        ("if-match", {f"{ORDER}/put/parameters/0/name": "IF-NONE-MATCH"}),
        ("reference", {"/components/schemas/Order/example": {"$ref": "nowhere"}}),
        ("reference", {"/x-more": {"$ref": "nowhere"}}),
        ("reference", {f"{SCHEMA}/$ref": {"type": "string"}}),
        ("path-case", {"/paths/~1users~1@me": {}, "/paths/x-Some_Thing": {}}),
        ("path-verb", {"/paths/~1lookup": {}}),
        (
            "page-token",
            {"/paths/~1carts~1{id}~1": {"get": {"responses": {"200": ITEMIZED}}}},
        ),
        ("page-size", {f"{ORDERS}/get/parameters/1/schema": {"enum": [10, 50]}}),
        (
            "if-match",
            {
                f"{ORDER}/put/parameters": GONE,
                f"{ORDER}/put/requestBody": ETAGGED,
            },
        ),
        ("idempotency-key", {f"{ORDERS}/post/parameters/0/name": "request_id"}),
        ("reference", {f"{SCHEMA}/x": {"$ref": "#anchor"}}),
        ("reference", {"/paths/x-more": {"$ref": "nowhere"}}),
    ],
)
def test_what_is_no_defect(rule, edits):
    """Near misses of each rule are left alone."""
    assert found(changed(edits), select=[f"rest/{rule}"]) == []


def test_references_under_any_name_are_looked_at():
    """A header or a property may be called `x-price` or `example`."""
    names = ["example", "properties", "x-price"]
    edits = {f"{SCHEMA}/{name}": {"$ref": "#/x"} for name in names}
    wanted = [("rest/reference", f"{SCHEMA}/{name}/$ref") for name in names]
    assert found(changed(edits)) == wanted


def test_no_operation_with_a_rate_limit_is_one_finding():
    """Where a document says nothing of limits, that is said once."""
    edits = {
        f"{ORDERS}/get/responses/429": GONE,
        f"{ORDERS}/get/responses/4XX": GONE,
        f"{ORDERS}/post": GONE,
        ORDER: GONE,
        ITEMS: GONE,
    }
    rules = ["rest/too-many-requests"]
    assert found(changed(edits), select=rules) == [("rest/too-many-requests", "/paths")]


def test_an_operation_without_responses():
    """There the operation itself is what is spoken of."""
    document = changed({f"{ORDERS}/post/responses": GONE})
    assert found(document) == [
        ("rest/responses", f"{ORDERS}/post"),
        ("rest/too-many-requests", f"{ORDERS}/post"),
    ]


# --- versions and references


@pytest.mark.parametrize("version", ["3.0.3", "3.0.4", "3.1.1", "3.2.0", "3.2"])
def test_versions(version):
    """A document of each version is checked by its own schema."""
    small = {"openapi": version, "info": {"title": "T", "version": "1"}, "paths": {}}
    assert found(small) in ([], [("rest/valid", "/openapi")])
    assert found(small | {"info": {}}, select=["rest/valid"])
    assert ("rest/valid", "/openapi") not in found(small) or version == "3.2"


def test_query():
    """The `query` of OpenAPI 3.2 is an operation, and answers a search by POST."""
    edits = {
        "/openapi": "3.2.0",
        f"{ORDERS}/post/operationId": "searchOrders",
        f"{ORDERS}/post/responses/200": OK,
        f"{ORDERS}/post/responses/201": GONE,
    }
    assert found(changed(edits)) == [("rest/query-method", f"{ORDERS}/post")]
    query = {"requestBody": BODY, "responses": {"200": OK}}
    document = changed(edits | {f"{ORDERS}/query": query})
    assert found(document) == [
        ("rest/responses", f"{ORDERS}/query/responses"),
        ("rest/too-many-requests", f"{ORDERS}/query/responses"),
    ]


def test_additional_operations():
    """Methods that OpenAPI has no field for are operations as well."""
    copied = {"requestBody": BODY, "responses": {"200": OK}}
    edits = {"/openapi": "3.2.0", f"{ORDERS}/additionalOperations": {"COPY": copied}}
    assert ("rest/responses", f"{ORDERS}/additionalOperations/COPY/responses") in found(
        changed(edits)
    )


def test_references_are_followed_to_the_element():
    """What is reached by a reference is reported once, where it stands."""
    loose = {"description": "No.", "content": BODY["content"]}
    edits = {"/components/responses/Problem": loose}
    assert found(changed(edits)) == [
        ("rest/problem-details", "/components/responses/Problem/content")
    ]


def test_pointers_in_references_are_decoded():
    """Percent-encoding first, then `~1` and `~0` (RFC 6901 §6)."""
    for name, spelled in [("a/b", "a~1b"), ("a~b", "a~0b"), ("a b%", "a%20b%25")]:
        edits = {
            f"/components/schemas/{name.replace('~', '~0').replace('/', '~1')}": {},
            f"{SCHEMA}/x": {"$ref": f"#/components/schemas/{spelled}"},
        }
        assert found(changed(edits), select=["rest/reference"]) == []


def test_the_own_address():
    """OpenAPI 3.2's `$self` names the same document."""
    edits = {
        "/openapi": "3.2.0",
        "/$self": "https://a.example/openapi.json",
        f"{SCHEMA}/y": {"$ref": "https://a.example/openapi.json#/info"},
        f"{SCHEMA}/z": {"$ref": "#/servers/0"},
    }
    assert found(changed(edits)) == []
    beyond = changed(edits | {f"{SCHEMA}/z": {"$ref": "#/servers/1"}})
    assert found(beyond) == [("rest/reference", f"{SCHEMA}/z/$ref")]


def test_nothing_is_fetched(monkeypatch):
    """A reference out of the document is a finding; no socket and no file is opened."""
    monkeypatch.setattr("socket.socket", None)
    monkeypatch.setattr("builtins.open", None)
    document = changed({f"{SCHEMA}/x": {"$ref": "file:///etc/passwd"}})
    document["paths"]["/more"] = {"$ref": "http://user:secret@a.example/x.yaml"}
    said = design_check.check(document)
    assert [f.pointer for f in said] == [
        f"{SCHEMA}/x/$ref",
        "/paths/~1more/$ref",
    ]
    assert not any("secret" in finding.message for finding in said)


def test_shared_path_items_are_looked_at_once():
    """However many paths refer to one path item, its operations are checked once."""
    item = {"get": {"responses": {"200": OK, "4XX": OK}}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "T", "version": "1"},
        "components": {"pathItems": {"x": item}},
        "paths": {f"/a{n}": {"$ref": "#/components/pathItems/x"} for n in range(9)},
    }
    assert found(document, select=["rest/problem-details"]) == [
        ("rest/problem-details", "/components/pathItems/x/get/responses/4XX")
    ]


def test_all_of_is_looked_through():
    """Properties of `allOf`, its own loops included, are a schema's properties."""
    document = changed({f"{ORDERS}/get/parameters": []})
    content = document["paths"]["/orders"]["get"]["responses"]["200"]["content"]
    page = content["application/json"]["schema"]
    document["components"]["schemas"]["Page"] = {
        "allOf": [page, {"$ref": "#/components/schemas/Page"}]
    }
    content["application/json"]["schema"] = {"$ref": "#/components/schemas/Page"}
    assert found(document) == [("rest/page-size", f"{ORDERS}/get")]
    del page["properties"]["next_page_token"]
    assert found(document) == [("rest/page-token", f"{ORDERS}/get")]


# --- switching rules off

BARE = {f"{ORDER}/put/parameters": GONE, "/paths/~1a~1": {}}


def test_select_and_ignore():
    """Rules are taken or left by their ids, and an id that is none is refused."""
    both = [("rest/path-form", "/paths/~1a~1"), ("rest/if-match", f"{ORDER}/put")]
    assert found(changed(BARE)) == both
    assert found(changed(BARE), select=["rest/path-form"]) == both[:1]
    assert found(changed(BARE), ignore={"rest/path-form"}) == both[1:]
    with pytest.raises(ValueError, match="no such rule: rest/nope"):
        design_check.check(DOCUMENT, ignore=["rest/nope"])


@pytest.mark.parametrize("place", ["", "/paths", ORDER, f"{ORDER}/put"])
def test_ignored_in_the_document(place):
    """An object's own list holds for it and for all below it, and for nothing else."""
    off = {f"{place}/x-rest-check-ignore": ["rest/if-match", 7, None]}
    assert found(changed(BARE | off)) == [("rest/path-form", "/paths/~1a~1")]
    off = {f"{ORDERS}/x-rest-check-ignore": ["rest/if-match"]}
    assert ("rest/if-match", f"{ORDER}/put") in found(changed(BARE | off))
    off = {f"{place}/x-rest-check-ignore": "rest/if-match"}
    assert ("rest/if-match", f"{ORDER}/put") in found(changed(BARE | off))


def test_rules_are_a_table():
    """Ids are unique, sentences are sentences, and each rule stands on something."""
    rules = design_check.RULES
    assert len({rule.id for rule in rules}) == len(rules) >= 20
    source = re.compile(
        r"(RFC \d+|AIP-\d+|Zalando #\d+|Azure #[a-z-]+|OpenAPI |draft-)"
    )
    for rule in rules:
        assert re.fullmatch(r"rest/[a-z]+(-[a-z]+)*", rule.id)
        assert rule.severity in ("error", "warning", "info")
        assert re.fullmatch(r"[A-Z].*[^.]\.", rule.sentence)
        assert rule.sources
        assert all(source.match(item) for item in rule.sources)
        assert re.search(r"AIP-|Zalando #|Azure #", "".join(rule.sources))


# --- reading


def refusal(source, **options):
    """Return why there is no document here."""
    with pytest.raises(design_check.DocumentError) as caught:
        design_check.load(source, **options)
    assert caught.value.__suppress_context__ or not caught.value.__context__
    return str(caught.value)


def test_load_json_yaml_and_files(tmp_path):
    """JSON, YAML, bytes and files give the same values."""
    file = tmp_path / "openapi.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + CLEAN)
    assert design_check.load(file) == design_check.load(str(file)) == DOCUMENT
    assert design_check.load(json.dumps(DOCUMENT).encode()) == DOCUMENT
    assert design_check.load(b"{openapi: 3.1.0, paths: {}}")["paths"] == {}
    assert refusal(file, max_bytes=100) == "larger than 100 bytes"
    with pytest.raises(OSError, match="nope"):
        design_check.load(tmp_path / "nope")


def test_yaml_scalars():
    """As JSON has them: `no` is a word, and a date is text; keys are text."""
    text = b"""
openapi: 3.1.0
x: [no, on, 0x1f, 1.5, 1e3, ~, null, True, false, "true", 2026-11-24, 1:30, NaN,
    !!str 5, ! 6, '', 012]
200: {true: 1}
? spelled
: out
"""
    assert design_check.load(text) == {
        "openapi": "3.1.0",
        "x": ["no", "on", "0x1f", 1.5, 1000.0, None, None, True, False, "true",
              "2026-11-24", "1:30", "NaN", "5", "6", "", "012"],
        "200": {"true": 1},
        "spelled": "out",
    }  # fmt: skip
    shared = design_check.load(b"openapi: 3.1.0\na: &x {b: &y 1}\nc: [*x, *y]")
    assert shared["c"] == [{"b": 1}, 1]


BOMB = b"openapi: 3.1.0\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10))
    for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (b"", "0 YAML documents"),
        (b"# nothing", "0 YAML documents"),
        (b"a: 1\n---\nb: 2", "2 YAML documents"),
        (b"[]", "the document is no object"),
        (b"{}", "not OpenAPI: "),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"\x00", "not JSON or YAML"),
        (b'swagger: "2.0"', "this is Swagger 2.0"),
        (b"openapi: 3.3.0", "not OpenAPI: "),
        (b"openapi: 4.0.0", "not OpenAPI: "),
        (b"openapi: [3.1.0]", "not OpenAPI: "),
        (b"a: b: c", "not JSON or YAML, line 1"),
        (b'{"openapi": "3.1.0", }}', "not JSON or YAML, line 1"),
        (b'{"a": 1, "a": 2}', "a key stands twice: 'a'"),
        (b'{"a": NaN}', "no JSON value: float"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b"a: 1\nb: {c: 1, c: 2}", "a key stands twice: 'c'"),
        (b"a: &x [*x]", "an alias to nothing: 'x'"),
        (b"a: *b", "an alias to nothing: 'b'"),
        (b"a: &x {b: 1}\nc: {<<: *x}", "a merge, or a key that is no text, line 2"),
        (b"? [a]\n: 1", "a merge, or a key that is no text, line 1"),
        (b"a: !!python/object:os.system x", "a YAML tag on line 1"),
        (b"a: !!binary eA==", "a YAML tag on line 1"),
        (b'a: "\\UFFFFFFFF"', "not JSON or YAML"),
        (BOMB, "more than 500000 values"),
        (b"- " * 200, "nested deeper than 100 levels"),
        (b'{"a":' * 200, "nested deeper than 100 levels"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper than 100 levels"),
        (b'{"a":' * 9999 + b"1" + b"}" * 9999, "nested deeper than 100 levels"),
        (b'{"openapi": "3.1.0", "%s": 1}' % (b"x" * 1001), "a key of more than 1000"),
        (b"x" * (10 * 2**20 + 1), "larger than 10485760 bytes"),
    ],
)
def test_no_document(source, why):
    """What is no document is refused with the reason, by one error."""
    assert refusal(source).startswith(why)


def test_yaml_without_libyaml(monkeypatch):
    """PyYAML's own parser serves as well where libyaml is not there."""
    monkeypatch.delattr(design_check.yaml, "CSafeLoader", raising=False)
    assert design_check.load(CLEAN) == DOCUMENT
    assert refusal(b'a: "\\UFFFFFFFF"').startswith("not JSON or YAML")
    assert refusal(b"- " * 200) == "nested deeper than 100 levels"


def test_yaml_of_too_many_scalars(monkeypatch):
    """A long list is given up before all of it is read."""
    monkeypatch.setattr(design_check, "MAX_NODES", 1000)
    assert refusal(b"[" + b"1," * 3000) == "more than 1000 values"  # and no `]`


def test_check_takes_what_other_parsers_give():
    """Integer keys, tuples and dates are as YAML means them; other objects are not."""
    document = design_check.yaml.safe_load(
        CLEAN.replace(b'"200"', b"200").replace(
            b"- {name", b"- {x-day: 2026-11-24, name"
        )
    )
    assert isinstance(document["paths"]["/orders"]["get"]["parameters"][0]["x-day"],
                      datetime.date)  # fmt: skip
    before = repr(document)
    assert design_check.check(document) == []
    assert repr(document) == before
    document["tags"] = ()
    assert design_check.check(document) == []
    for wrong in ({1, 2}, object(), b"bytes", 10**5000, {10**5000: 1}, float("nan")):
        with pytest.raises(design_check.DocumentError, match="no JSON value"):
            design_check.check(document | {"x": wrong})
    with pytest.raises(design_check.DocumentError, match="a key stands twice"):
        design_check.check(document | {"x": {1: 1, "1": 2}})
    loop = dict(document)
    loop["x"] = loop
    with pytest.raises(design_check.DocumentError, match="nested deeper"):
        design_check.check(loop)
    for wrong in (None, [], "openapi", 3):
        with pytest.raises(design_check.DocumentError):
            design_check.check(wrong)


# --- bounded work


def test_references_that_multiply_the_work(monkeypatch):
    """Many operations that share a large schema are given up, not sat through."""
    wide = {f"p{n}": {"type": "string"} for n in range(50_000)}
    schema = {"type": "object", "properties": wide}
    shared = {**OK, "content": {"application/json": {"schema": schema}}}
    use = {"responses": {"200": {"$ref": "#/components/responses/R"}}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "T", "version": "1"},
        "components": {"responses": {"R": shared}},
        "paths": {f"/a{n}": {"get": dict(use)} for n in range(200)},
    }
    monkeypatch.setattr(design_check, "_STEPS", 400_000)
    with pytest.raises(design_check.DocumentError, match="too entangled"):
        design_check.check(document, select=["rest/error-as-success"])


def test_schemas_too_deep_for_the_validator():
    """OpenAPI 3.0 validates schemas by recursion; past its depth is no document."""
    schema = {"type": "string"}
    for _ in range(45):
        schema = {"type": "object", "properties": {"a": schema}}
    document = changed({"/components/schemas/Deep": schema})
    assert found(document) == []
    document["openapi"] = "3.0.3"
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 330)
    try:
        with pytest.raises(design_check.DocumentError, match="nested too deeply"):
            design_check.check(document)
    finally:
        sys.setrecursionlimit(before)


def test_a_document_of_defects_gives_so_many_errors_of_validity():
    """At most fifty places where a document is not valid are named."""
    edits = {f"/components/schemas/S{n}": 7 for n in range(80)}
    assert len(found(changed(edits), select=["rest/valid"])) == 50


def test_messages_are_short():
    """A finding does not repeat the document, which aliases may have made huge."""
    long = "y" * 5000
    for title, said in [([long], "the array"), ({"x": long}, "the object")]:
        (finding,) = design_check.check(changed({"/info/title": title}))
        assert finding.message == f"OpenAPI 3.1: {said} is not of type 'string'."
    (finding,) = design_check.check(changed({"/info": long}))
    assert len(finding.message) < 250


def test_twins_in_a_list_are_not_looked_for():
    """It would take the square of a list's length, which OpenAPI 3.0 asks for."""
    document = {"openapi": "3.0.3", "info": DOCUMENT["info"], "paths": {}}
    document["tags"] = [{"name": "a"}, {"name": "a"}]
    assert found(document) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["#/paths", "#/components/x"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["$ref", "properties", "allOf", "type", "in", "name", "content",
                         "responses", "parameters", "schema", "200", "404", "url",
                         "headers", "id", "/a/{b}", "get", "post", "$anchor"])
        | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def places(value, pointer=""):
    """Yield every pointer of a document but the root's."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in pairs:
        token = str(name).replace("~", "~0").replace("/", "~1")
        yield f"{pointer}/{token}"
        if isinstance(item, dict | list):
            yield from places(item, f"{pointer}/{token}")


PLACES = [place for place in places(DOCUMENT) if place != "/openapi"]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["3.0.3", "3.1.0", "3.2.0"]), st.sampled_from(PLACES), JSON)
def test_any_value_in_any_place(version, place, value):
    """A document with anything anywhere is checked, with pointers into it."""
    document = changed({"/openapi": version})
    parent, _, last = place.rpartition("/")
    holder = at(document, parent)
    key = last.replace("~1", "/").replace("~0", "~")
    holder[int(key) if isinstance(holder, list) else key] = value
    for finding in design_check.check(document):
        at(document, finding.pointer)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_any_document(value):
    """Whatever is given is checked, or refused by the one error."""
    for document in (value, {"openapi": "3.1.0", "paths": value, "components": value}):
        with contextlib.suppress(design_check.DocumentError):
            design_check.check(document)


@settings(max_examples=200, deadline=None)
@given(st.binary() | st.text().map(str.encode) | st.text(
    "{}[]:,&*!|>-?%@`\"'#\n \tab1~<"
).map(str.encode))  # fmt: skip
def test_any_bytes(source):
    """Bytes of any kind are read, or refused by the one error."""
    for data in (source, CLEAN[:200] + source):
        with contextlib.suppress(design_check.DocumentError):
            assert design_check.load(data)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_yaml_is_read_as_it_was_written(value):
    """What PyYAML writes is read back as the same values."""
    document = {"openapi": "3.1.0", "x": value}
    text = design_check.yaml.safe_dump(document, allow_unicode=False)
    try:
        read = design_check.load(text.encode())
    except design_check.DocumentError:
        assert "!!" in text or "? " in text or "<<" in text
        return
    if not re.search(r"\d[eE_:]\d|0[xob]|\.inf|\d_|\b0\d", text):
        assert read == json.loads(json.dumps(document))
