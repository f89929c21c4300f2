# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["jsonschema>=4.26", "openapi-spec-validator>=0.9", "pyyaml>=6.0.3"]
# ///
"""Check the design of an API in its own OpenAPI document.

`load` reads a document (OpenAPI 3.0, 3.1 or 3.2; JSON or YAML), `check` gives what its
design breaks: names, methods, status codes, problem details, pages, preconditions, rate
limits, deprecation. `RULES` has each rule with what it stands on. For a review and for
CI, on your own document; not in place of a linter of style (Spectral, Redocly), nor as
a proof that the server does what its document says.

A rule is an error where a standard says MUST, a warning where a standard or one of the
guidelines (AIP, Zalando, Azure) says so, and info where it is a hint. An object of the
document that has `x-rest-check-ignore: [rule, …]` is left alone, with all below it.
Nothing is fetched: a reference out of the document is a finding, so bundle it first.
Follows RFC 6901 (JSON Pointer), RFC 9110, RFC 9457, and what each rule cites.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import yaml  # type: ignore[import-untyped,unused-ignore]
from jsonschema import validators  # type: ignore[import-untyped,unused-ignore]
from openapi_spec_validator import schemas

__all__ = ["DocumentError", "Finding", "Rule", "check", "load"]

MAX_BYTES = 10 * 2**20
MAX_NODES = 500_000  # with what YAML aliases repeat
MAX_DEPTH = 100
MAX_KEY = 1000  # characters
_STEPS = 2_000_000  # of all rules on one document: references can multiply the work
_HOPS = 32  # references in a row
_INVALID = 50  # findings of `rest/valid` that are of use
_IGNORE = "x-rest-check-ignore"

Severity: TypeAlias = Literal["error", "warning", "info"]


class DocumentError(ValueError):
    """There is no OpenAPI 3.0, 3.1 or 3.2 document here; the message says why."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What one rule says of one element.

    `pointer` is the element's JSON Pointer (RFC 6901), empty for the document itself.
    """

    pointer: str
    rule: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its id, what it asks for in a sentence, and what it stands on."""

    id: str
    severity: Severity
    sentence: str
    sources: tuple[str, ...]
    look: Callable[[_Api], Iterator[tuple[_Node, str]]]


# --- reading a document


def load(source: bytes | str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """Return an OpenAPI document as plain values, from its file or its bytes.

    Args:
        source: the document's own bytes, or the path of its file.
        max_bytes: the longest document that is read.

    Raises:
        DocumentError: not JSON or YAML, an object that names a key twice, larger than
            `max_bytes`, 500 000 values or 100 levels, or another version.
        OSError: the file cannot be read.

    >>> load(b"openapi: 3.1.0\\npaths: {}")
    {'openapi': '3.1.0', 'paths': {}}
    """
    if isinstance(source, bytes):
        data = source
    else:
        with Path(source).open("rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DocumentError(f"larger than {max_bytes} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DocumentError(f"not UTF-8 at byte {exc.start}") from None
    document = _plain(_parse(text))
    _version(document)
    return document


def _parse(text: str) -> Any:
    if text.lstrip()[:1] == "{":
        try:
            return json.loads(text, object_pairs_hook=_no_twins)
        except RecursionError:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels") from None
        except json.JSONDecodeError:
            pass  # or YAML's own {braces}
        except DocumentError:
            raise
        except ValueError:
            raise DocumentError("a number of too many digits") from None
    return _yaml(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise DocumentError(f"a key stands twice: {names.most_common(1)[0][0][:40]!r}")
    return made


def _yaml(text: str) -> Any:
    """Return the one document of a YAML text.

    Built from events, so that no nesting, alias, merge or tag is followed unseen.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    parsed = islice(yaml.parse(text, Loader=loader), 3 * MAX_NODES)
    wanted = yaml.NodeEvent, yaml.CollectionEndEvent
    events = (event for event in parsed if isinstance(event, wanted))
    try:
        documents = [_built(event, events, {}, 1) for event in events]
    except StopIteration:
        raise DocumentError(f"more than {MAX_NODES} values") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DocumentError(f"not JSON or YAML{where}") from None
    except OverflowError:  # an escape for no character
        raise DocumentError("not JSON or YAML") from None
    if len(documents) != 1:
        raise DocumentError(f"{len(documents)} YAML documents where one is wanted")
    return documents[0]


def _built(
    event: Any, events: Iterator[Any], anchors: dict[str, Any], depth: int
) -> Any:
    """Return the value that starts with an event, and take its events."""
    if depth > MAX_DEPTH:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise DocumentError(f"an alias to nothing: {event.anchor[:40]!r}")
        return anchors[event.anchor]
    value: Any = {}
    if isinstance(event, yaml.ScalarEvent):
        value = _scalar(event)
    elif isinstance(event, yaml.SequenceStartEvent):
        value = []
        while not isinstance(item := next(events), yaml.CollectionEndEvent):
            value.append(_built(item, events, anchors, depth + 1))
    else:
        while not isinstance(key := next(events), yaml.CollectionEndEvent):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarEvent) or key.value == "<<":
                raise DocumentError(f"a merge, or a key that is no text, line {line}")
            if key.value in value:
                raise DocumentError(f"a key stands twice: {key.value[:40]!r}")
            value[key.value] = _built(next(events), events, anchors, depth + 1)
    if event.anchor:  # not before: an alias inside would be a cycle
        anchors[event.anchor] = value
    return value


_WORDS = {"": None, "~": None, "True": True, "False": False}


def _scalar(event: Any) -> Any:
    """Return a scalar as JSON has it, so that no date is made and `no` is a word."""
    text = event.value
    if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
        raise DocumentError(f"a YAML tag on line {event.start_mark.line + 1}")
    if event.tag or not event.implicit[0]:
        return text
    try:
        return _WORDS[text] if text in _WORDS else json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _plain(document: Any) -> Any:
    """Return a copy that is JSON with keys of text, not too large and not too deep."""
    left = MAX_NODES

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise DocumentError(f"more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and value.bit_length() < 2000:
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, Mapping):
            pairs = [
                (k if isinstance(k, str) else str(copy(k, depth)), copy(v, depth + 1))
                for k, v in value.items()
            ]
            if any(len(key) > MAX_KEY for key, _ in pairs):
                raise DocumentError(f"a key of more than {MAX_KEY} characters")
            return _no_twins(pairs)
        if isinstance(value, list | tuple):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, date):  # as PyYAML reads `2026-11-24`
            return value.isoformat()
        raise DocumentError(f"no JSON value: {type(value).__name__}")

    return copy(document, 1)


def _version(document: Any) -> int:
    """Return 0, 1 or 2 of a document's version 3.x."""
    if not isinstance(document, dict):
        raise DocumentError("the document is no object")
    if "swagger" in document:
        raise DocumentError("this is Swagger 2.0: convert it to OpenAPI 3 first")
    seen = re.fullmatch(r"3\.([0-2])(\.\S{1,20})?", str(document.get("openapi")))
    if not seen:
        raise DocumentError("not OpenAPI: its `openapi` is not 3.0, 3.1 or 3.2")
    return int(seen[1])


# --- the document as the rules see it


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """An element of the document; a way down that does not exist ends in None."""

    api: _Api
    value: Any
    token: str = ""
    above: _Node | None = None

    def __bool__(self) -> bool:
        return self.value is not None

    @property
    def pointer(self) -> str:
        """Its JSON Pointer (RFC 6901 §3), written when a finding needs it."""
        tokens: list[str] = []
        node = self
        while node.above is not None:
            tokens.append(node.token.replace("~", "~0").replace("/", "~1"))
            node = node.above
        pointer = "".join(f"/{token}" for token in reversed(tokens))
        self.api.step(len(pointer) // 10)
        return pointer

    def down(self, token: str) -> _Node:
        """Return the element below as it stands, be it a reference."""
        self.api.step()
        value, below = self.value, None
        if isinstance(value, dict):
            below = value.get(token)
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,6}", token):
            below = value[int(token)] if int(token) < len(value) else None
        return _Node(self.api, below, token, self)

    def get(self, *names: str) -> _Node:
        """Return the element below, behind any references on the way."""
        node = self
        for name in names:
            node = self.api.follow(node.down(name))
        return node

    def items(self) -> Iterator[tuple[str, _Node]]:
        """Yield the names and elements of an object, and of nothing else."""
        for name in self.value if isinstance(self.value, dict) else ():
            yield name, self.get(name)

    def each(self) -> Iterator[_Node]:
        """Yield the elements of an array, and of nothing else."""
        for number in range(len(self.value) if isinstance(self.value, list) else 0):
            yield self.get(str(number))

    @property
    def text(self) -> str:
        """A text, or as much of it as a name may have; else nothing."""
        return self.value[:MAX_KEY] if isinstance(self.value, str) else ""


class _Operation(NamedTuple):
    path: str  # without a slash at its end
    method: str  # in lower case
    node: _Node
    item: _Node
    answer: _Node  # its responses, or where there are none itself
    responses: dict[str, _Node]
    has_items: bool  # one level below it in the paths

    @property
    def last(self) -> str:
        return self.path.rpartition("/")[2]

    def parameters(self, place: str) -> dict[str, _Node]:
        """Return the parameters of one place by name, headers in lower case."""
        found = {}
        for holder in (self.item, self.node):  # the operation's own win
            for parameter in holder.get("parameters").each():
                if parameter.get("in").text == place:
                    name = parameter.get("name").text
                    found[name.lower() if place == "header" else name] = parameter
        return found

    def answers(self, *codes: str) -> bool:
        """Tell whether it describes one of the codes, by itself or in a range."""
        ranges = {code[0] + "XX" for code in codes} | {"default", *codes}
        return not ranges.isdisjoint(self.responses)

    def successes(self) -> list[_Node]:
        return [node for code, node in self.responses.items() if code[:1] == "2"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_METHODS = "get put post delete options head patch trace query"


class _Api:
    """A document with its paths and its operations."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.steps = 0
        self.minor = _version(document)
        self.root = _Node(self, document)
        self.found: dict[str, _Node | None] = {}
        # Each path as it stands, and what is behind it if it is a reference.
        paths = self.follow(self.root.down("paths"))
        self.paths = [paths.down(p) for p, _ in paths.items() if p.startswith("/")]
        self.operations = list(self._operations())

    def step(self, steps: int = 1) -> None:
        """Count the work, of which one document gets so much and no more."""
        self.steps += steps
        if self.steps > _STEPS:
            raise DocumentError("it is too large or too entangled to check")

    def find(self, reference: str) -> _Node | None:
        """Return what a reference into this document points to (RFC 6901 §6)."""
        if reference not in self.found:
            own = self.root.value.get("$self")  # OpenAPI 3.2: the document's address
            local = reference.removeprefix(own) if isinstance(own, str) else reference
            node = self.root if local in ("", "#") or local[:2] == "#/" else None
            for token in unquote(local[1:]).split("/")[1:] if node else ():
                node = node and node.down(token.replace("~1", "/").replace("~0", "~"))
            self.found[reference] = node or None
        return self.found[reference]

    def follow(self, node: _Node) -> _Node:
        """Return what stands behind a reference, or nothing if that is not here."""
        start = node
        for _ in range(_HOPS):
            to = node.value.get("$ref") if isinstance(node.value, dict) else None
            if not isinstance(to, str):
                return node
            self.step()
            found = self.find(to)
            if found is None:
                break
            node = found
        return _Node(self, None, start.token, start.above)

    def _operations(self) -> Iterator[_Operation]:
        """Yield each operation once, however many paths refer to it."""
        seen: set[int] = set()
        lists = {path.token.rpartition("/{")[0] for path in self.paths}
        for at in self.paths:
            item, path = self.follow(at), at.token.rstrip("/")
            methods = [(name, item.get(name)) for name in _METHODS.split()]
            methods += item.get("additionalOperations").items()
            for method, node in methods:
                if isinstance(node.value, dict) and id(node.value) not in seen:
                    seen.add(id(node.value))
                    said = node.get("responses")
                    codes = dict(said.items())
                    facts = method.lower(), node, item, said or node, codes
                    yield _Operation(path, *facts, path in lists)


def _words(name: str) -> list[str]:
    """Return the words of a name in any case: kebab, snake or camel."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _headers(response: _Node) -> set[str]:
    return {name.lower() for name, _ in response.get("headers").items()}


def _types(schema: _Node) -> set[str]:
    """Return a schema's types; `null` is not counted, so 3.0 and 3.1 look alike."""
    value = schema.get("type").value
    listed = value if isinstance(value, list) else [value]
    return {name for name in listed if isinstance(name, str)} - {"null"}


def _properties(schema: _Node) -> dict[str, _Node]:
    """Return a schema's properties, with those of its `allOf`."""
    found: dict[str, _Node] = {}
    waiting, seen = [schema], {id(schema.value)}
    while waiting:
        part = waiting.pop()
        for name, node in part.get("properties").items():
            found.setdefault(name, node)
        more = [s for s in part.get("allOf").each() if id(s.value) not in seen]
        seen |= {id(s.value) for s in more}
        waiting += more
    return found


def _schemas(message: _Node) -> list[_Node]:
    """Return the schemas of a request's or a response's JSON."""
    json_too = re.compile(r".*[/+]json\b|\*/\*", re.I)
    content = message.get("content").items()
    return [media.get("schema") for kind, media in content if json_too.match(kind)]


# --- the rules: each yields elements, and what is the matter in a sentence

_Found: TypeAlias = Iterator[tuple[_Node, str]]


def _of_each(look: Callable[[_Operation], _Found], api: _Api) -> _Found:
    for operation in api.operations:
        yield from look(operation)


class _Brief(dict[str, Any]):
    def __repr__(self) -> str:
        return "the object"


class _BriefList(list[Any]):
    def __repr__(self) -> str:
        return "the array"


def _brief(value: Any) -> Any:
    """Return a copy for the validator, which quotes all of what it refuses."""
    if isinstance(value, dict):
        return _Brief({name: _brief(item) for name, item in value.items()})
    if isinstance(value, list):
        return _BriefList(map(_brief, value))
    return value[:100] if isinstance(value, str) else value


def _valid(api: _Api) -> _Found:
    text = json.dumps(dict(getattr(schemas, f"schema_v3{api.minor}")))
    # What this refers to says no more, but takes most of the time to be found.
    text = text.replace('"$dynamicRef": "#meta"', '"type": ["object", "boolean"]')
    text = text.replace('"uniqueItems": true', '"uniqueItems": false')  # square work
    schema = json.loads(text)
    validator = validators.validator_for(schema)(schema)
    try:
        errors = list(islice(validator.iter_errors(_brief(api.root.value)), _INVALID))
    except RecursionError:
        raise DocumentError("its schemas are nested too deeply") from None
    for error in errors:
        inner = error
        while inner.context:  # the alternative that came furthest says most
            inner = max(inner.context, key=lambda part: len(part.absolute_path))
        at = api.root
        for part in inner.absolute_path:
            at = at.down(str(part))
        said = " ".join(inner.message.split())
        said = said if len(said) < 200 else f"{said[:90]} … {said[-90:]}"
        yield at, f"OpenAPI 3.{api.minor}: {said}."


def _parts(node: _Node) -> Iterator[_Node]:
    """Yield what stands in an element, but for examples and extensions."""
    if isinstance(node.value, list):
        yield from (node.down(str(number)) for number in range(len(node.value)))
    elif isinstance(node.value, dict):
        any_name = node.token in ("headers", "properties")
        for name in node.value:
            if any_name or not re.match(r"(const|enum|examples?)$|x-", name):
                yield node.down(name)


def _reference(api: _Api) -> _Found:
    waiting = [api.root]
    while waiting:
        node = waiting.pop()
        waiting += [p for p in _parts(node) if isinstance(p.value, dict | list)]
        to = node.down("$ref")
        if not isinstance(to.value, str) or re.match("#[^/]", to.value):
            continue  # `#name` is an `$anchor`, which is not looked for
        if api.find(to.value) is None:
            away = "It leads out of this document, and is not followed: bundle it."
            yield to, "Nothing is there." if to.text[:1] == "#" else away
        elif not api.follow(node):
            yield to, "The reference leads to itself, or too far."


_STYLES = {
    "kebab-case": re.compile(r"[a-z0-9]+(-[a-z0-9]+)+"),
    "snake_case": re.compile(r"[a-z0-9]+(_[a-z0-9]+)+"),
    "camelCase": re.compile(r"[a-z][a-z0-9]*([A-Z][a-zA-Z0-9]*)+"),
}


def _segments(api: _Api) -> dict[str, _Node]:
    """Return each segment that is no parameter, with the path where it first stands."""
    found: dict[str, _Node] = {}
    for at in api.paths:
        for part in at.token.split("/"):
            part = part.partition(":")[0]  # AIP-136: `/orders/{id}:cancel`
            if part and "{" not in part and part[0] not in ".@$":
                found.setdefault(part, at)
    return found


def _path_case(api: _Api) -> _Found:
    names = _segments(api)
    counts = Counter(
        style for part in names for style in _STYLES if _STYLES[style].fullmatch(part)
    )
    house = max(_STYLES, key=lambda style: counts[style])  # kebab-case if none leads
    for part, at in names.items():
        plain = re.fullmatch(r"[a-z0-9.~]+", part)
        if not plain and not _STYLES[house].fullmatch(part):
            yield at, f"Segment {part!r} is not in {house}, which the paths are in."


# Their plural is the same, or they are no collection.
_PLURAL = _set(
    "aliases children criteria data equipment feedback hardware history information"
    " indices media metadata men music news people series software species staff"
    " statistics traffic women analytics export import list"
)
_NOT_PLURAL = ("ss", "sis", "bus", "tatus", "campus")


def _path_plural(api: _Api) -> _Found:
    paths = {at.token.rstrip("/"): at for at in api.paths}
    for path, at in paths.items():
        item = re.fullmatch(r"(.*/([^/{}:]+))/\{[^{}]+\}", path)
        words = [word for word in _words(item[2]) if word[1:]] if item else []
        last = words[-1] if words else ""  # of `projectsV2` it is `projects`
        plural = last.endswith("s") and not last.endswith(_NOT_PLURAL)
        lookup = item and re.fullmatch(r"v\d.*|(.*[-_])?by([-_].*)?", item[2])
        if item and last and not (plural or lookup or last in _PLURAL | _VERBS):
            # `/tarball/{ref}` alone is no collection; beside `/tarball` it is.
            methods = map(api.follow(at).get, ("put", "patch", "delete"))
            if item[1] in paths or any(methods):
                yield at, f"{item[2]!r} has items below it, but is no plural."


_CHANGES = _set(
    "add create delete destroy edit insert modify patch put remove save update upsert"
)
_VERBS = _CHANGES | _set("fetch find get lookup perform retrieve search")


def _path_verb(api: _Api) -> _Found:
    for part, at in _segments(api).items():
        first = (_words(part) or [""])[0]
        noun = first in ("lookup", "search") or re.match(r"add[-_]?ons?\b", part)
        if first in _VERBS and not noun:
            yield at, f"Segment {part!r} is a verb: the method says what is done."


_EXTENSION = re.compile(r"[\w}]\.(json|xml|ya?ml|csv|html?|php|aspx?|jsp|do)$")


def _path_form(api: _Api) -> _Found:
    for at in api.paths:
        path = at.token
        if "//" in path or (path != "/" and path.endswith("/")):
            yield at, "The path has an empty segment or ends in a slash."
        if _EXTENSION.search(path) and not re.search(r"openapi\.|swagger\.|/\.", path):
            yield at, "The path ends in a file extension: `Accept` says which format."


def _verb_of(operation: _Operation) -> str:
    """Return the first word of an operationId, behind its group: `repos/get-one`."""
    name = re.split(r"[/.:]", operation.node.get("operationId").text)[-1]
    return (_words(name) or [""])[0]


def _safe_method(operation: _Operation) -> _Found:
    method, body = operation.method, operation.node.down("requestBody")
    if method in ("get", "head", "delete") and body:
        yield body, f"A body of {method.upper()} has no meaning."
    if method in ("get", "head", "query") and _verb_of(operation) in _CHANGES:
        named = operation.node.get("operationId")
        yield named, f"{method.upper()} is safe, but {named.text!r} says it writes."


def _searches(operation: _Operation) -> bool:
    """Tell whether a POST only reads, by its name or the last word of its path."""
    told = _verb_of(operation) in _set("find list lookup query search")
    told |= bool(_set("filter lookup query search") & {*_words(operation.last)[-1:]})
    made = operation.responses.get("201")
    body = operation.node.get("requestBody")
    return operation.method == "post" and told and bool(body) and not made


def _query_method(operation: _Operation) -> _Found:
    if _searches(operation) and not operation.item.get("query"):
        how = "`query` is for that, from OpenAPI 3.2 on"
        yield operation.node, f"A search by POST is not safe to repeat: {how}."


def _idempotency_key(operation: _Operation) -> _Found:
    if operation.method == "post" and (
        operation.responses.get("201")
        or (operation.has_items and not _searches(operation))
    ):
        names = {*operation.parameters("header"), *operation.parameters("query")}
        keys = _set("idempotencykey repeatabilityrequestid requestid")
        if keys.isdisjoint(_squeeze({*names, *_body(operation)})):
            yield operation.node, "A POST that creates takes no Idempotency-Key."


def _location(operation: _Operation) -> _Found:
    created, accepted = map(operation.responses.get, ("201", "202"))
    if operation.method == "post" and created and "location" not in _headers(created):
        yield created, "A 201 does not say where the new resource is (Location)."
    places = _set("location content-location operation-location")
    if accepted and not accepted.get("content") and not places & _headers(accepted):
        yield accepted, "A 202 does not say where its outcome will be found."


def _no_content(operation: _Operation) -> _Found:
    for code in ("204", "205", "304"):
        content = operation.answer.get(code, "content")
        if content.value:
            yield content, f"A {code} has no content."


def _error_as_success(operation: _Operation) -> _Found:
    for response in operation.successes():
        for kind, media in response.get("content").items():
            if kind.lower().startswith("application/problem+"):
                yield media, "A problem under a status of success."
        for properties in map(_properties, _schemas(response)):
            flag = properties.get("success") or properties.get("ok")
            if flag and _types(flag) == {"boolean"} and "error" in properties:
                yield flag, "The status says whether it is one, not the body."


def _responses(operation: _Operation) -> _Found:
    codes = {code[:1] for code in operation.responses}
    if operation.method in ("options", "trace"):
        return
    if codes.isdisjoint("123d"):
        yield operation.answer, "No response of success is described."
    elif codes.isdisjoint("4d"):
        yield operation.answer, "No response of a client's error (4xx) is described."


def _problem_details(operation: _Operation) -> _Found:
    told = {code[:1] for code in operation.responses}
    errors = "45" if told.isdisjoint("23") else "45d"  # with no other, default is both
    for code, response in operation.responses.items():
        if code[:1] not in [*errors] or not response or operation.method == "head":
            continue
        content = response.get("content")
        kinds = [kind.lower() for kind, _ in content.items()]
        if not kinds:
            yield response, f"Response {code} has no problem details."
        elif not any(kind.startswith("application/problem+") for kind in kinds):
            yield content, f"Response {code} is not application/problem+json."


_LISTS = _set("content data edges elements entries items records results value")
_WALK = _set(
    "after before continuationtoken continue cursor endingbefore marker next nextcursor"
    " nexttoken offset page pageafter pagecursor pageindex pagenumber pageoffset"
    " pagetoken since skip skiptoken start startafter startat startindex startingafter"
)
_NEXT = _set("links next nextcursor nextlink nextpage nextpagetoken nexttoken")
_SIZE = _set(
    "count first limit maxitems maxpagesize maxresults pagelimit pagesize perpage rows"
    " size take top"
)


def _squeeze(names: Iterable[str]) -> dict[str, str]:
    """Return names by what they say: `page[size]`, `page_size` and `pageSize`."""
    return {re.sub("[^a-z]", "", name.lower()): name for name in names}


def _paged(operation: _Operation) -> bool | None:
    """Tell whether a list can be walked; None if there is none that has no end."""
    if operation.method != "get" or "{" in operation.last:
        return None
    lists = _LISTS | {operation.last.lower(), operation.last.lower().replace("-", "_")}
    for response in operation.successes():
        for schema in _schemas(response):
            properties = _properties(schema)
            arrays = [schema, *(properties[name] for name in lists & {*properties})]
            if any(_types(a) == {"array"} and not a.get("maxItems") for a in arrays):
                said = _WALK & {*_squeeze(operation.parameters("query"))}
                said |= _NEXT & {*_squeeze(properties)}
                return bool(said) or "link" in _headers(response)
    return None


def _page_token(operation: _Operation) -> _Found:
    if _paged(operation) is False:
        yield operation.node, "A list cannot be read page by page."


def _page_size(operation: _Operation) -> _Found:
    query, paged = operation.parameters("query"), _paged(operation)
    sizes = [name for said, name in _squeeze(query).items() if said in _SIZE]
    for name in sizes if paged is not None else ():
        schema = query[name].get("schema")
        ends = map(schema.get, ("maximum", "exclusiveMaximum", "enum", "const"))
        if _types(schema) & {"integer", "number"} and not any(ends):
            yield query[name], "A page size without a maximum."
    if paged and not sizes:
        yield operation.node, "A list takes no page size, such as `limit`."


def _body(operation: _Operation) -> set[str]:
    """Return the names of the properties that the JSON of a request has."""
    schemas = _schemas(operation.node.get("requestBody"))
    return {name for schema in schemas for name in _properties(schema)}


def _conditional(operation: _Operation) -> bool | None:
    """Tell whether a write has a condition; None if it is no write of a whole."""
    if operation.method not in ("put", "patch") or not operation.node.get(
        "requestBody"
    ):
        return None
    conditions = _set("if-match if-none-match if-unmodified-since")
    return not conditions.isdisjoint(operation.parameters("header"))


def _if_match(operation: _Operation) -> _Found:
    method, conditional = operation.method.upper(), _conditional(operation)
    if conditional and not operation.answers("412", "428"):
        yield operation.answer, f"{method} takes a condition but knows no 412."
    if conditional is False and "etag" not in _body(operation):  # which AIP-154 has
        yield operation.node, f"{method} takes no If-Match: an update can be lost."


def _etag(operation: _Operation) -> _Found:
    read = operation.item.get("get", "responses", "200")
    unread = read and _headers(read).isdisjoint(("etag", "last-modified"))
    if unread and _conditional(operation):
        yield read, "Writes take a condition, but reading gives no ETag for it."


def _too_many_requests(api: _Api) -> _Found:
    without = [op for op in api.operations if not op.answers("429")]
    if without and len(without) == len(api.operations):
        yield api.root.get("paths"), "No operation says what it answers over a limit."
    else:
        for operation in without:
            yield operation.answer, "No response says that there are too many (429)."


def _retry_after(operation: _Operation) -> _Found:
    for code in ("429", "503"):
        response = operation.responses.get(code)
        if response and "retry-after" not in _headers(response):
            yield response, f"A {code} does not say when to come back."


def _deprecation(operation: _Operation) -> _Found:
    if operation.node.get("deprecated").value is True:
        said = set().union(*map(_headers, operation.responses.values()))
        if said.isdisjoint(("deprecation", "sunset")):
            yield operation.node, "Deprecated, but no response's header says so."


# Id, severity and sentence, and below what the rule stands on; its function is the one
# of that name. The slowest comes last.
_TABLE = """\
path-case warning: The segments of paths are in one case, best in kebab-case.
    Zalando #129; AIP-122; Azure #rest-paths-make-sense
path-plural warning: A collection's name is a plural.
    Zalando #134; AIP-122
path-verb warning: A path names things, and the method says what is done with them.
    Zalando #138, #141; AIP-131, AIP-136; Azure #actions-no-actions-for-crud
path-form warning: A path has no empty segment, slash at its end or file extension.
    Zalando #136; RFC 3986 §3.3; RFC 9110 §12.5.1
safe-method warning: GET and HEAD change nothing, and they and DELETE have no body.
    RFC 9110 §9.2.1, §9.3.1, §9.3.2, §9.3.5; Zalando #149; AIP-131
query-method info: A search with a body is a QUERY, which is safe to repeat.
    RFC 10008; OpenAPI 3.2 Path Item Object; Zalando #237
idempotency-key warning: A POST that creates takes a key, so that it can be repeated.
    RFC 9110 §9.2.2; draft-ietf-httpapi-idempotency-key-header-07; AIP-155;
    Zalando #229, #230; Azure #http-post-must-be-idempotent
location warning: A 201 says where the new resource is, a 202 where its outcome will be.
    RFC 9110 §15.3.2, §15.3.3; AIP-151; Zalando #253;
    Azure #http-post-must-be-idempotent, #lro-returns-operation-location
no-content error: A 204, 205 or 304 has no content.
    RFC 9110 §15.3.5, §15.3.6, §15.4.5; Azure #http-delete-returns-204
error-as-success warning: A failure has its own status, and is no error in a 200.
    RFC 9110 §15; Zalando #220; AIP-193; Azure #rest-use-standard-status-codes
responses warning: Each operation describes a success and a client's error.
    OpenAPI Responses Object; Zalando #151; Azure #http-success-status-codes
problem-details warning: An error's content is application/problem+json.
    RFC 9457 §3; Zalando #176
page-token warning: A list can be read page by page.
    AIP-158; Zalando #159, #160; Azure #collections-support-server-driven-paging
page-size warning: A list that has pages takes the size of a page, up to a maximum.
    AIP-158; Zalando #137; Azure #collections-query-options
if-match warning: A PUT or PATCH takes If-Match, and answers 412 or 428.
    RFC 9110 §13.1.1, §15.5.13; RFC 6585 §3; AIP-154; Zalando #182;
    Azure #http-support-optimistic-concurrency
etag warning: What is written on a condition is read with its ETag.
    RFC 9110 §8.8.3; AIP-154; Zalando #182; Azure #http-support-optimistic-concurrency
too-many-requests info: Each operation says what it answers over a rate limit.
    RFC 6585 §4; Zalando #153
retry-after warning: A 429 or 503 says when to come back.
    RFC 6585 §4; RFC 9110 §10.2.3, §15.6.4; Zalando #153
deprecation warning: A deprecated operation says so in Deprecation or Sunset.
    RFC 9745 §2; RFC 8594 §3; Zalando #189
reference error: Each reference leads to an element of the same document.
    OpenAPI Reference Object; RFC 6901 §6; Zalando #234
valid error: The document is what the OpenAPI specification allows.
    OpenAPI 3.0, 3.1, 3.2; Zalando #101
"""


def _rules() -> Iterator[Rule]:
    for row in re.split(r"\n(?=\w)", _TABLE.strip()):
        head, *sources = row.split("\n")
        name, severity, sentence = re.split(": | ", head, maxsplit=2)
        stands_on = tuple(re.split(r";\s*", " ".join(sources).strip()))
        look = globals()[f"_{name.replace('-', '_')}"]
        if "operation" in look.__annotations__:
            look = partial(_of_each, look)
        yield Rule(f"rest/{name}", severity, sentence, stands_on, look)  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = tuple(_rules())


def check(
    document: Mapping[str, Any],
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> list[Finding]:
    """Return what the design breaks, by pointer and then by rule.

    Args:
        document: as `load` returns it, or any parser of JSON or YAML.
        select: ids of the rules to look with; all of them if None.
        ignore: ids of rules that are left out.

    Pure: nothing is fetched or read, and the document stays as it is. A rule speaks of
    an element once, however many operations refer to it.

    Raises:
        DocumentError: this is no document of OpenAPI 3.0, 3.1 or 3.2, or it is too
            large, too deep or too entangled to check.
        ValueError: a rule is named that does not exist.

    >>> pets = {"openapi": "3.1.0", "info": {"title": "Pets", "version": "1"}}
    >>> pets["paths"] = {"/pets/": {}}
    >>> [(f.rule, f.pointer) for f in check(pets)]
    [('rest/path-form', '/paths/~1pets~1')]
    """
    known = {rule.id for rule in RULES}
    wanted = known if select is None else set(select)
    leave = set(ignore)
    if unknown := sorted((wanted | leave) - known):
        raise ValueError(f"no such rule: {', '.join(unknown)}")
    api = _Api(_plain(document))
    found: dict[tuple[str, str], Finding] = {}
    for rule in RULES:
        if rule.id in wanted - leave:
            for node, message in rule.look(api):
                key = node.pointer, rule.id
                if key not in found and not _ignored(node, rule.id):
                    found[key] = Finding(*key, rule.severity, message)
    return sorted(found.values())


def _ignored(node: _Node, rule: str) -> bool:
    """Tell whether a rule is switched off on the way to an element."""
    way: _Node | None = node
    while way is not None:
        names = way.value.get(_IGNORE) if isinstance(way.value, dict) else None
        if isinstance(names, list) and rule in names[:100]:
            return True
        way = way.above
    return False


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
