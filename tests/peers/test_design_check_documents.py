"""`rest/design_check` on public OpenAPI documents, as packages of npm carry them."""

from collections import Counter
from pathlib import Path

import pytest

from patterns.rest import design_check


@pytest.fixture(scope="module")
def document(npm_package):
    """Return a function that reads a document of a package."""

    def document(package, file, **options):
        name = package.rpartition("@")[0]
        return design_check.load(
            npm_package(package) / "node_modules" / name / Path(file), **options
        )

    return document


# Read by hand when they were first seen: what they say is so of the document, but for
# `margin_cost` of blockfrost, a ratio (`money`).
SEEN = {
    ("@scalar/galaxy@0.6.12", "dist/3.1.yaml"): {
        "credential": 1,
        "idempotency-key": 4,
        "if-match": 1,
        "location": 2,
        "number-id": 3,
        "page-size": 1,
        "problem-details": 7,
        "responses": 2,
        "too-many-requests": 9,
    },
    ("@directus/specs@15.2.0", "dist/openapi.json"): {
        "credential": 1,
        "idempotency-key": 15,
        "if-match": 28,
        "page-size": 2,
        "page-token": 6,
        "path-plural": 2,
        "path-verb": 1,
        "problem-details": 7,
        "responses": 9,
        "retry-after": 1,
        "too-many-requests": 135,
        "valid": 1,
    },
    ("@ideal-postcodes/openapi@4.21.0", "dist/openapi.yaml"): {
        "credential": 1,
        "date-time": 6,
        "idempotency-key": 3,
        "if-match": 2,
        "path-case": 1,
        "path-plural": 1,
        "problem-details": 50,
        "retry-after": 3,
        "security": 1,
        "too-many-requests": 28,
    },
    ("@blockfrost/openapi@0.1.93", "openapi.yaml"): {
        "deprecation": 2,
        "money": 3,
        "page-token": 14,
        "path-plural": 1,
        "path-verb": 2,
        "problem-details": 8,
        "retry-after": 1,
        "valid": 6,
    },
    ("@readme/oas-examples@8.2.2", "3.1/yaml/train-travel.yaml"): {
        "idempotency-key": 1,
        "location": 1,
        "money": 2,
        "page-size": 3,
    },
    ("@readme/oas-examples@8.2.2", "3.0/json/star-trek.json"): {
        "credential": 120,
        "date-time": 2,
        "https": 1,
        "page-size": 1,
        "problem-details": 80,
        "query-method": 40,
        "responses": 40,
        "security": 1,
        "too-many-requests": 40,
    },
    ("@octokit/openapi@23.0.2", "generated/api.github.com.json"): {
        "date-time": 285,
        "deprecation": 37,
        "idempotency-key": 129,
        "if-match": 168,
        "location": 85,
        "money": 29,
        "number-id": 339,
        "page-size": 13,
        "page-token": 54,
        "path-case": 39,
        "path-depth": 10,
        "path-plural": 12,
        "path-verb": 6,
        "problem-details": 213,
        "query-method": 2,
        "responses": 382,
        "retry-after": 6,
        "safe-method": 20,
        "security": 1,
        "too-many-requests": 1221,
    },
}


GITHUB = ("@octokit/openapi@23.0.2", "generated/api.github.com.json")


@pytest.mark.parametrize(("package", "file"), SEEN)
def test_findings_are_stable(document, package, file):
    """The findings by rule of a release are what they were when they were read."""
    found = design_check.check(document(package, file, max_bytes=2**24))
    assert Counter(f.rule.removeprefix("rest/") for f in found) == SEEN[package, file]


def test_every_finding_points_into_the_document(document):
    """Each pointer of a large document's findings is that of an element."""
    github = document(*GITHUB, max_bytes=2**24)
    for finding in design_check.check(github, ignore=["rest/valid"]):
        at = github
        for token in finding.pointer.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            at = at[int(token)] if isinstance(at, list) else at[token]


def test_a_large_document_takes_bounded_work(document, monkeypatch):
    """GitHub's 811 paths in 13 MB are half of the work that a document may make."""
    with pytest.raises(design_check.DocumentError, match="larger than 10485760"):
        document(*GITHUB)
    github = document(*GITHUB, max_bytes=2**24)
    monkeypatch.setattr(design_check, "_STEPS", design_check._STEPS // 2)
    assert design_check.check(github, ignore=["rest/valid"])
