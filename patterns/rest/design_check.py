# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["jsonschema>=4.26", "openapi-spec-validator>=0.9", "pyyaml>=6.0.3"]
# ///
"""Check the design of an API in its own OpenAPI document.

`load` reads a document (OpenAPI 3.0, 3.1 or 3.2; JSON or YAML), `check` gives what its
design breaks: names, methods, status codes, problem details, pages, preconditions, rate
limits, deprecation, numbers and dates, credentials. `RULES` has each rule with what it
stands on. For a review and for CI, on your own document; not for one that you cannot
change, nor in place of a linter of style (Spectral, Redocly), nor as a proof that the
server does what its document says.

A rule is an error where a standard says MUST, a warning where a standard or two of the
guidelines (AIP, Zalando, Azure) say so, and info where it is a hint. An object of the
document that has `x-rest-check-ignore: [rule, …]` is left alone, with all below it.
Nothing is fetched: a reference out of the document is a finding.
Follows RFC 6901 (JSON Pointer), RFC 9110, RFC 9457, and what each rule cites.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
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
            return json.loads(
                text, object_pairs_hook=_no_twins, parse_constant=_no_number
            )
        except RecursionError:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels") from None
        except json.JSONDecodeError as exc:
            broken = f"not JSON: {exc.msg}, line {exc.lineno}"
        except DocumentError:
            raise
        except ValueError:  # an integer of thousands of digits
            raise DocumentError("a number is too long to be one") from None
        try:  # YAML's own {braces}
            return _yaml(text)
        except DocumentError:
            raise DocumentError(broken) from None
    return _yaml(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise DocumentError(f"a key stands twice: {names.most_common(1)[0][0][:40]!r}")
    return made


def _no_number(name: str) -> Any:
    raise DocumentError(f"{name} is no JSON number")


_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE, _FALSE = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,400}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(e[-+]?[0-9]+)?", re.I | re.A)


def _scalar(event: Any) -> Any:
    """Return a scalar by YAML 1.2's core schema: no dates, and `no` is a word."""
    tag, text = event.tag, event.value
    if tag and not re.fullmatch(r"!|tag:yaml\.org,2002:(str|int|float|bool|null)", tag):
        raise DocumentError(f"a YAML tag on line {event.start_mark.line + 1}")
    if not (event.implicit[0] or tag) or tag in ("!", "tag:yaml.org,2002:str"):
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if len(text) < 400 and _FLOAT.fullmatch(text) else text


@dataclass(slots=True)
class _Open:
    """A collection of YAML that is not closed yet, and the key that waits in it."""

    made: Any
    anchor: str | None
    key: str | None = None


def _yaml(text: str) -> Any:
    """Return the one document of a YAML text.

    Built from events, so that no nesting, alias, merge or tag is followed unseen.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    anchors: dict[str, Any] = {}
    top: list[Any] = []
    stack = [_Open(top, None)]
    try:
        for count, event in enumerate(yaml.parse(text, Loader=loader)):
            if count > 3 * MAX_NODES:
                raise DocumentError(f"more than {MAX_NODES} values")
            if isinstance(event, yaml.CollectionStartEvent):
                made: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                stack.append(_Open(made, event.anchor))
                if len(stack) > MAX_DEPTH + 1:
                    raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = stack.pop()
                if closed.anchor:  # not before: an alias inside would be a cycle
                    anchors[closed.anchor] = closed.made
                _put(stack[-1], closed.made, None, event)
            elif isinstance(event, yaml.ScalarEvent):
                value = _scalar(event)
                if event.anchor:
                    anchors[event.anchor] = value
                _put(stack[-1], value, event.value, event)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise DocumentError(f"an alias to nothing: {event.anchor[:40]!r}")
                _put(stack[-1], anchors[event.anchor], None, event)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DocumentError(f"not YAML{where}") from None
    except OverflowError:  # an escape for no character
        raise DocumentError("not YAML") from None
    if len(top) != 1:
        raise DocumentError(f"{len(top)} YAML documents where one is wanted")
    return top[0]


def _put(into: _Open, value: Any, key: str | None, event: Any) -> None:
    """Add a value to the collection that is open; in a mapping its key comes first."""
    line = event.start_mark.line + 1
    if isinstance(into.made, list):
        into.made.append(value)
    elif into.key is not None:
        into.made[into.key], into.key = value, None
    elif key is None or key == "<<":
        raise DocumentError(f"a key that is no plain text, line {line}")
    elif key in into.made:
        raise DocumentError(f"a key stands twice: {key[:40]!r}, line {line}")
    else:
        into.key = key


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
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, Mapping):
            pairs = [(str(key), copy(item, depth + 1)) for key, item in value.items()]
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
        raise DocumentError(
            "this is Swagger 2.0: convert it to OpenAPI 3.0, 3.1 or 3.2 first"
        )
    seen = re.fullmatch(r"3\.([0-2])(\.\S{1,20})?", str(document.get("openapi")))
    if not seen:
        wanted = "its `openapi` is not 3.0, 3.1 or 3.2"
        raise DocumentError(f"not an OpenAPI document: {wanted}")
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
    path: str
    method: str  # in lower case
    node: _Node
    item: _Node

    @property
    def responses(self) -> _Node:
        return self.node.get("responses")

    @property
    def answer(self) -> _Node:
        """Its responses, or where there are none itself."""
        return self.responses or self.node

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
        return any(code in ranges for code, _ in self.responses.items())

    def successes(self) -> Iterator[_Node]:
        for code, response in self.responses.items():
            if code.startswith("2"):
                yield response


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_METHODS = "get put post delete options head patch trace query"
_DATA = _set("const default enum example examples")
# Below these of an object are names, and below the names objects again.
_MAPS = _set(
    "$defs additionalOperations callbacks content definitions dependentSchemas encoding"
    " headers links mapping mediaTypes parameters pathItems paths patternProperties"
    " properties requestBodies responses schemas scopes securitySchemes variables"
    " webhooks"
)


class _Api:
    """A document with its operations and its objects."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.steps = 0
        self.minor = _version(document)
        self.root = _Node(self, document)
        self.objects = list(self._objects())
        self.targets: dict[str, _Node | None] = {
            f"#{node.value[key]}": node
            for node in self.objects
            for key in ("$anchor", "$dynamicAnchor")
            if isinstance(node.value.get(key), str)
        }
        # Each path as it stands, and what is behind it if it is a reference.
        paths = self.follow(self.root.down("paths"))
        self.paths = [paths.down(path) for path, _ in paths.items()]
        self.operations = list(self._operations())

    def step(self, steps: int = 1) -> None:
        """Count the work, of which one document gets so much and no more."""
        self.steps += steps
        if self.steps > _STEPS:
            raise DocumentError("its references make it too much work to check")

    def find(self, reference: str) -> _Node | None:
        """Return what a reference into this document points to (RFC 6901 §6)."""
        if reference not in self.targets:
            self.targets[reference] = self._find(reference)
        return self.targets[reference]

    def _find(self, reference: str) -> _Node | None:
        own = self.root.value.get("$self")  # OpenAPI 3.2: the document's own address
        local = reference.removeprefix(own) if isinstance(own, str) else reference
        if local not in ("", "#") and not local.startswith("#/"):
            return None
        node = self.root
        for token in unquote(local[1:]).split("/")[1:]:
            node = node.down(token.replace("~1", "/").replace("~0", "~"))
        return node if node else None

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

    def _objects(self) -> Iterator[_Node]:
        """Yield every object that the specification names, in the document's order.

        Neither data (an example, a default) nor an extension is looked into.
        """
        waiting = [(self.root, False)]
        while waiting:
            node, names = waiting.pop()
            keys: Iterable[str] = ()
            if isinstance(node.value, list):
                keys = map(str, range(len(node.value)))
            elif names:
                keys = node.value
            elif isinstance(node.value, dict):
                yield node
                keys = [k for k in node.value if k not in _DATA and k[:2] != "x-"]
            found = [(node.down(k), not names and k in _MAPS) for k in keys]
            waiting += [
                (below, maps and isinstance(below.value, dict))
                for below, maps in reversed(found)
                if isinstance(below.value, dict | list)
            ]

    def _operations(self) -> Iterator[_Operation]:
        """Yield each operation once, however many paths refer to it."""
        seen: set[int] = set()
        for path in self.paths:
            item = self.follow(path)
            methods = [(name, item.get(name)) for name in _METHODS.split()]
            methods += item.get("additionalOperations").items()
            for method, node in methods:
                if isinstance(node.value, dict) and id(node.value) not in seen:
                    seen.add(id(node.value))
                    yield _Operation(path.token, method.lower(), node, item)

    def properties(self, schema: _Node) -> dict[str, _Node]:
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


def _schemas(response: _Node) -> Iterator[_Node]:
    """Yield the schemas of a response's JSON."""
    for kind, media in response.get("content").items():
        if re.search(r"[/+]json\b", kind.lower()):
            yield media.get("schema")


# --- the rules: each yields elements, and what is the matter in a sentence

_Found: TypeAlias = Iterator[tuple[_Node, str]]
_Look: TypeAlias = Callable[[_Api], _Found]


def _rule(severity: Severity, sentence: str, sources: str) -> Callable[[_Look], Rule]:
    """Make a rule of a function, by whose name it goes."""
    return lambda look: Rule(
        f"rest/{look.__name__.strip('_').replace('_', '-')}",
        severity,
        sentence,
        tuple(sources.split("; ")),
        look,
    )


@_rule(
    "error",
    "The document is what the OpenAPI specification allows.",
    "OpenAPI 3.0, 3.1, 3.2; Zalando #101",
)
def _valid(api: _Api) -> _Found:
    text = json.dumps(dict(getattr(schemas, f"schema_v3{api.minor}")))
    # What this refers to says no more, but takes most of the time to be found.
    text = text.replace('"$dynamicRef": "#meta"', '"type": ["object", "boolean"]')
    schema = json.loads(text)
    validator = validators.validator_for(schema)(schema)
    try:
        errors = list(islice(validator.iter_errors(api.root.value), _INVALID))
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
    for operation in api.operations:
        declared = operation.parameters("path")
        wanted = re.findall(r"\{([^{}]*)\}", operation.path)
        for name in dict.fromkeys(wanted):
            if name not in declared:
                yield operation.node, f"Path parameter {name!r} is not declared."
        for name, parameter in declared.items():
            if name not in wanted:
                yield parameter, f"Path parameter {name!r} is not in the path."


@_rule(
    "error",
    "Each reference leads to an element of the same document.",
    "OpenAPI Reference Object; RFC 6901 §6; Zalando #234",
)
def _reference(api: _Api) -> _Found:
    for node in api.objects:
        to = node.value.get("$ref")
        if not isinstance(to, str):
            continue
        at = node.down("$ref")
        if api.find(to) is None:
            away = "It leads out of this document, and is not followed."
            yield at, "Nothing is there." if to.startswith("#") else away
        elif api.follow(node).value is None:
            yield at, "The reference leads back to itself, or too far."


@_rule(
    "error",
    "No two operations have the same operationId.",
    "OpenAPI Operation Object",
)
def _operation_id(api: _Api) -> _Found:
    seen: set[str] = set()
    for operation in api.operations:
        node = operation.node.get("operationId")
        if node.text in seen:
            yield node, f"{node.text!r} names another operation already."
        seen |= {node.text} - {""}


_STYLES = {
    "kebab-case": re.compile(r"[a-z0-9]+(-[a-z0-9]+)+"),
    "snake_case": re.compile(r"[a-z0-9]+(_[a-z0-9]+)+"),
    "camelCase": re.compile(r"[a-z][a-z0-9]*([A-Z][a-zA-Z0-9]*)+"),
}


def _segments(api: _Api) -> Iterator[tuple[str, _Node]]:
    """Yield each segment that is no parameter, with the path where it first stands."""
    seen: set[str] = set()
    for at in api.paths:
        for part in at.token.split("/"):
            part = part.partition(":")[0]  # AIP-136: `/orders/{id}:cancel`
            if part and "{" not in part and part[0] != "." and part not in seen:
                seen.add(part)
                yield part, at


@_rule(
    "warning",
    "The segments of paths are in one case, best in kebab-case.",
    "Zalando #129; AIP-122; Azure #rest-paths-make-sense",
)
def _path_case(api: _Api) -> _Found:
    names = dict(_segments(api))
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


@_rule("warning", "A collection's name is a plural.", "Zalando #134; AIP-122")
def _path_plural(api: _Api) -> _Found:
    paths = {at.token: api.follow(at) for at in api.paths}
    for at in api.paths:
        item = re.fullmatch(r"(.*/([^/{}:]+))/\{[^{}]+\}", at.token)
        words = [word for word in _words(item[2]) if word[1:]] if item else []
        last = words[-1] if words else ""  # of `projectsV2` it is `projects`
        plural = last.endswith("s") and not last.endswith(_NOT_PLURAL)
        lookup = item and re.fullmatch(r"v\d.*|(.*[-_])?by([-_].*)?", item[2])
        if item and last and not (plural or lookup or last in _PLURAL | _VERBS):
            # `/tarball/{ref}` alone is no collection; beside `/tarball` it is.
            changed = any(paths[at.token].get(m) for m in ("put", "patch", "delete"))
            if item[1] in paths or changed:
                yield at, f"{item[2]!r} has items below it, but is no plural."


_VERBS = _set(
    "add create delete destroy edit fetch find get insert lookup modify patch perform"
    " put remove retrieve save search update upsert"
)
_WRITES = _VERBS - {"fetch", "find", "get", "lookup", "retrieve", "search", "perform"}


@_rule(
    "warning",
    "A path names things, and the method says what is done with them.",
    "Zalando #138, #141; AIP-131, AIP-136; Azure #actions-no-actions-for-crud",
)
def _path_verb(api: _Api) -> _Found:
    for part, at in _segments(api):
        first = (_words(part) or [""])[0]
        if first in _VERBS - {"search"} and not re.match(r"add[-_]?ons?\b", part):
            yield at, f"Segment {part!r} is a verb: the method says what is done."


_EXTENSION = re.compile(r"[\w}]\.(json|xml|ya?ml|csv|html?|php|aspx?|jsp|do)$")


@_rule(
    "warning",
    "A path has no empty segment, no slash at its end and no file extension.",
    "Zalando #136; RFC 3986 §3.3; RFC 9110 §12.5.1",
)
def _path_form(api: _Api) -> _Found:
    for at in api.paths:
        path = at.token
        if "//" in path or (path != "/" and path.endswith("/")):
            yield at, "The path has an empty segment or ends in a slash."
        if _EXTENSION.search(path) and not re.search(r"openapi\.|swagger\.|/\.", path):
            yield at, "The path ends in a file extension: `Accept` says which format."


@_rule("info", "A path has at most three levels of sub-resources.", "Zalando #147")
def _path_depth(api: _Api) -> _Found:
    for at in api.paths:
        literal = [part for part in at.token.split("/") if part and "{" not in part]
        names = [part for part in literal if not re.fullmatch(r"api|rest|v\d.*", part)]
        if at.token.count("{") > 2 and len(names) > 4:
            yield at, f"The path nests {len(names) - 1} levels of sub-resources."


def _verb_of(operation: _Operation) -> str:
    """Return the first word of an operationId, behind its group: `repos/get-one`."""
    name = re.split(r"[/.:]", operation.node.get("operationId").text)[-1]
    return (_words(name) or [""])[0]


@_rule(
    "warning",
    "GET and HEAD change nothing, and they and DELETE have no body.",
    "RFC 9110 §9.2.1, §9.3.1, §9.3.2, §9.3.5; Zalando #149; AIP-131",
)
def _safe_method(api: _Api) -> _Found:
    for operation in api.operations:
        method, body = operation.method, operation.node.down("requestBody")
        if method in ("get", "head", "delete") and body:
            yield body, f"A body of {method.upper()} has no meaning."
        if method in ("get", "head", "query") and _verb_of(operation) in _WRITES:
            named = operation.node.get("operationId")
            yield named, f"{method.upper()} is safe, but {named.text!r} says it writes."


def _searches(operation: _Operation) -> bool:
    """Tell whether a POST only reads, by its name or the last word of its path."""
    told = _verb_of(operation) in _set("find list lookup query search")
    told |= bool(_set("filter lookup query search") & {*_words(operation.last)[-1:]})
    body = operation.node.get("requestBody")
    created = operation.responses.get("201")
    return operation.method == "post" and told and bool(body) and not created


@_rule(
    "info",
    "A search with a body is a QUERY, which is safe to repeat.",
    "RFC 10008; OpenAPI 3.2 Path Item Object; Zalando #237",
)
def _query_method(api: _Api) -> _Found:
    how = "OpenAPI 3.2 has `query` for it" if api.minor < 2 else "`query` is for that"
    for operation in api.operations:
        if _searches(operation) and not operation.item.get("query"):
            yield operation.node, f"A search by POST is not safe to repeat: {how}."


@_rule(
    "warning",
    "A POST that creates takes a key, so that it can be repeated.",
    "RFC 9110 §9.2.2; draft-ietf-httpapi-idempotency-key-header-07; AIP-155;"
    " Zalando #229, #230; Azure #http-post-must-be-idempotent, #repeatability",
)
def _idempotency_key(api: _Api) -> _Found:
    known = {"idempotency-key", "repeatability-request-id"}
    lists = {path.token.rpartition("/{")[0] for path in api.paths}
    for operation in api.operations:
        made = operation.path in lists and not _searches(operation)
        creates = operation.method == "post" and (
            made or operation.responses.get("201")
        )
        if creates and known.isdisjoint(operation.parameters("header")):
            yield operation.node, "A POST that creates takes no Idempotency-Key."


@_rule(
    "warning",
    "A 201 says where the new resource is, a 202 where the outcome will be.",
    "RFC 9110 §15.3.2, §15.3.3; AIP-151;"
    " Azure #http-post-must-be-idempotent, #lro-returns-operation-location",
)
def _location(api: _Api) -> _Found:
    places = {"location", "content-location", "operation-location"}
    for operation in api.operations:
        created = operation.responses.get("201")
        unsaid = created and "location" not in _headers(created)
        if operation.method == "post" and unsaid:
            yield created, "A 201 does not say where the new resource is (Location)."
        accepted = operation.responses.get("202")
        if accepted and not accepted.get("content") and not places & _headers(accepted):
            yield accepted, "A 202 does not say where its outcome will be found."


@_rule(
    "error",
    "A 204, 205 or 304 has no content.",
    "RFC 9110 §15.3.5, §15.3.6, §15.4.5",
)
def _no_content(api: _Api) -> _Found:
    for operation in api.operations:
        for code in ("204", "205", "304"):
            content = operation.responses.get(code, "content")
            if content.value:
                yield content, f"A {code} has no content."


@_rule(
    "warning",
    "A failure has a status of its own, and is no 200 with an error in it.",
    "RFC 9110 §15; Zalando #220; AIP-193; Azure #rest-use-standard-status-codes",
)
def _error_as_success(api: _Api) -> _Found:
    for operation in api.operations:
        for response in operation.successes():
            content = response.get("content")
            for kind, media in content.items():
                if kind.lower().startswith("application/problem+"):
                    yield media, "A problem under a status of success."
            for schema in _schemas(response):
                properties = api.properties(schema)
                flag = properties.get("success") or properties.get("ok")
                if flag and _types(flag) == {"boolean"} and "error" in properties:
                    yield flag, "The status says whether it is one, not the body."


@_rule(
    "warning",
    "Each operation describes a success and a client's error.",
    "OpenAPI Responses Object; Zalando #151",
)
def _responses(api: _Api) -> _Found:
    for operation in api.operations:
        if operation.method in ("options", "trace"):
            continue
        codes = [code for code, _ in operation.responses.items()]
        at = operation.answer
        if not any(code[:1] in "123" or code == "default" for code in codes):
            yield at, "No response of success is described."
        elif not any(code[:1] == "4" or code == "default" for code in codes):
            yield at, "No response of a client's error (4xx) is described."


@_rule(
    "warning",
    "An error's content is application/problem+json.",
    "RFC 9457 §3; Zalando #176",
)
def _problem_details(api: _Api) -> _Found:
    for operation in api.operations:
        codes = dict(operation.responses.items())
        if operation.method == "head":
            continue
        for code, response in codes.items():
            succeeds = code == "default" and not any(c[:1] == "2" for c in codes)
            if code[:1] not in "45d" or succeeds or not response:
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


def _list_schema(api: _Api, operation: _Operation) -> _Node | None:
    """Return the schema of a list that has no end of its own, if that is the answer."""
    if operation.method != "get" or "{" in operation.last:
        return None
    names = _LISTS | {operation.last.lower(), operation.last.lower().replace("-", "_")}
    for response in operation.successes():
        for schema in _schemas(response):
            found = [n for name, n in api.properties(schema).items() if name in names]
            for array in [schema, *found]:
                if _types(array) == {"array"} and not array.get("maxItems"):
                    return schema
    return None


def _lists(api: _Api) -> Iterator[tuple[_Operation, bool]]:
    """Yield the operations that list, and whether the list can be walked."""
    for operation in api.operations:
        schema = _list_schema(api, operation)
        if schema is not None:
            said = set().union(*map(_headers, operation.successes())) & {"link"}
            said |= _NEXT & {*_squeeze(api.properties(schema))}
            said |= _WALK & {*_squeeze(operation.parameters("query"))}
            yield operation, bool(said)


@_rule(
    "warning",
    "A list can be read page by page.",
    "AIP-158; Zalando #159, #160; Azure #collections-support-server-driven-paging",
)
def _page_token(api: _Api) -> _Found:
    for operation, paged in _lists(api):
        if not paged:
            yield operation.node, "A list cannot be read page by page."


@_rule(
    "warning",
    "A list that has pages takes the size of a page, up to a maximum.",
    "AIP-158; Zalando #137",
)
def _page_size(api: _Api) -> _Found:
    for operation, paged in _lists(api):
        query = operation.parameters("query")
        sizes = [name for said, name in _squeeze(query).items() if said in _SIZE]
        for parameter in (query[name] for name in sizes):
            schema = parameter.get("schema")
            if _types(schema) & {"integer", "number"} and not (
                schema.get("maximum") or schema.get("exclusiveMaximum")
            ):
                yield parameter, "A page size without a maximum."
        if paged and not sizes:
            yield operation.node, "A list takes no page size, such as `limit`."


def _writes(api: _Api) -> Iterator[tuple[_Operation, bool]]:
    """Yield the operations that change what is there, and whether on a condition."""
    conditions = {"if-match", "if-none-match", "if-unmodified-since"}
    for operation in api.operations:
        if operation.method in ("put", "patch") and operation.node.get("requestBody"):
            yield operation, not conditions.isdisjoint(operation.parameters("header"))


@_rule(
    "warning",
    "A PUT or PATCH takes If-Match, and answers 412 or 428.",
    "RFC 9110 §13.1.1, §15.5.13; RFC 6585 §3; AIP-154; Zalando #182;"
    " Azure #http-support-optimistic-concurrency",
)
def _if_match(api: _Api) -> _Found:
    for operation, conditional in _writes(api):
        method = operation.method.upper()
        if not conditional:
            yield operation.node, f"{method} takes no If-Match: an update can be lost."
        elif not operation.answers("412", "428"):
            yield operation.answer, f"{method} takes a condition but knows no 412."


@_rule(
    "warning",
    "What is written on a condition is read with its ETag.",
    "RFC 9110 §8.8.3; AIP-154; Zalando #182;"
    " Azure #http-support-optimistic-concurrency",
)
def _etag(api: _Api) -> _Found:
    for operation, conditional in _writes(api):
        read = operation.item.get("get", "responses", "200")
        if conditional and read and not {"etag", "last-modified"} & _headers(read):
            yield read, "Writes take a condition, but reading gives no ETag for it."


@_rule(
    "info",
    "Each operation says what it answers over a rate limit.",
    "RFC 6585 §4; Zalando #153",
)
def _too_many_requests(api: _Api) -> _Found:
    without = [op for op in api.operations if not op.answers("429")]
    if without and len(without) == len(api.operations):
        yield api.root.get("paths"), "No operation says what it answers over a limit."
    else:
        for operation in without:
            yield operation.answer, "No response says that there are too many (429)."


@_rule(
    "warning",
    "A 429 or 503 says when to come back.",
    "RFC 6585 §4; RFC 9110 §10.2.3, §15.6.4; Zalando #153",
)
def _retry_after(api: _Api) -> _Found:
    for operation in api.operations:
        for code in ("429", "503"):
            response = operation.responses.get(code)
            if response and "retry-after" not in _headers(response):
                yield response, f"A {code} does not say when to come back."


@_rule(
    "warning",
    "A deprecated operation says so in Deprecation or Sunset.",
    "RFC 9745 §2; RFC 8594 §3; Zalando #189",
)
def _deprecation(api: _Api) -> _Found:
    for operation in api.operations:
        if operation.node.get("deprecated").value is True:
            said = set().union(*(_headers(r) for _, r in operation.responses.items()))
            if said.isdisjoint({"deprecation", "sunset"}):
                yield operation.node, "Deprecated, but no response's header says so."


def _properties(api: _Api) -> Iterator[tuple[list[str], _Node]]:
    """Yield the words of each property of a schema, and the property."""
    for node in api.objects:
        properties = node.down("properties")
        for name in properties.value if isinstance(properties.value, dict) else ():
            schema, words = properties.down(name), _words(name)
            if words and isinstance(schema.value, dict):
                yield words, schema


@_rule(
    "warning",
    "An id that may pass 2^53 is a string.",
    "RFC 8259 §6; RFC 7493 §2.2; Azure #http-parameter-serialization",
)
def _number_id(api: _Api) -> _Found:
    for words, schema in _properties(api):
        if words[-1] == "id":
            types, maximum = _types(schema), schema.get("maximum").value
            wide = schema.get("format").text in ("int64", "uint64")
            bounded = isinstance(maximum, int | float) and maximum < 2**53
            if "number" in types or ("integer" in types and wide and not bounded):
                yield schema, "An id as a number loses digits above 2^53: use a string."


_MONEY = _set("amount balance cost fee price salary")


@_rule(
    "warning",
    "Money is a decimal string or minor units, never a binary fraction.",
    "RFC 8259 §6; Zalando #173",
)
def _money(api: _Api) -> _Found:
    for words, schema in _properties(api):
        money = words[-1] in _MONEY or words[0] == "amount"
        inexact = "number" in _types(schema) and schema.get("format").text != "decimal"
        if money and inexact:
            yield schema, "Money as a binary fraction: use a string or minor units."


@_rule(
    "warning",
    "A date or a point in time is text of RFC 3339.",
    "RFC 3339 §5.6; Zalando #169; AIP-142",
)
def _date_time(api: _Api) -> _Found:
    for words, schema in _properties(api):
        types = _types(schema)
        moment = words[-1] in ("timestamp", "datetime") or (
            words[-1] == "at" and len(words) > 1
        )
        loose = "string" in types and not any(
            schema.get(key) for key in ("format", "pattern", "enum", "const")
        )
        if (moment or words[-1] == "date") and loose:
            yield schema, "A date without `format: date-time` or `date`."
        elif moment and types & {"integer", "number"}:
            yield schema, "A point in time as a number, not as RFC 3339 has it."


_SECRETS = _set("accesstoken apikey apitoken authtoken clientsecret password")


@_rule("error", "No credential is in a query.", "RFC 6750 §2.3, §5.3; RFC 9700 §4.3.2")
def _credential(api: _Api) -> _Found:
    for _, scheme in api.root.get("components", "securitySchemes").items():
        if scheme.get("type").text == "apiKey" and scheme.get("in").text == "query":
            yield scheme, "A credential in the query ends up in logs and histories."
    for operation in api.operations:
        for said, name in _squeeze(query := operation.parameters("query")).items():
            if said in _SECRETS:
                yield query[name], "A credential in the query ends up in logs."


@_rule(
    "error",
    "Servers and endpoints of authorization are https.",
    "RFC 9110 §4.2.2; RFC 6749 §3.1, §3.2; RFC 6750 §5.3",
)
def _https(api: _Api) -> _Found:
    keys = ("url", "authorizationUrl", "tokenUrl", "refreshUrl", "openIdConnectUrl")
    for node in api.objects:
        place = node.above.token if node.above else ""
        for key in keys if place in ("servers", "securitySchemes", "flows") else ():
            url = node.get(key)
            if re.match(r"http://(?!localhost\b|127\.|\[::1\])", url.text, re.I):
                yield url, "Plain http: whoever is on the way reads and changes it."


@_rule(
    "warning",
    "Each operation says how it is secured, be it that it is open to all.",
    "OpenAPI Security Requirement Object; Zalando #104",
)
def _security(api: _Api) -> _Found:
    bare = [op for op in api.operations if not op.node.get("security")]
    if api.root.get("security") or not bare:
        return
    if len(bare) == len(api.operations):
        yield api.root, "Nothing says how a client is authenticated."
    else:
        for operation in bare:
            yield operation.node, "Nothing says that it is secured, or open to all."


# Every rule above, in this order.
RULES: tuple[Rule, ...] = tuple(
    rule for rule in list(globals().values()) if isinstance(rule, Rule)
)


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
                pointer = node.pointer
                if (pointer, rule.id) not in found and rule.id not in _ignored(node):
                    finding = Finding(pointer, rule.id, rule.severity, message)
                    found[pointer, rule.id] = finding
    return sorted(found.values())


def _ignored(node: _Node) -> set[str]:
    """Return the rules that are switched off on the way to an element."""
    off: set[str] = set()
    way: _Node | None = node
    while way is not None:
        names = way.value.get(_IGNORE) if isinstance(way.value, dict) else None
        if isinstance(names, list):
            off |= {name for name in names if isinstance(name, str)}
        way = way.above
    return off


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
