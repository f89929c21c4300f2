"""The paginator against moto's S3 and DynamoDB, with botocore's paginator as oracle.

S3 answers in XML and DynamoDB takes its token in a POSTed body; a filtered scan has
pages that hold nothing in its midst.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest

KEYS = [f"a/{word} &+<%2F>{n}" for n in range(27) for word in ("é", "plus+")]
SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
SCAN = {
    "TableName": "events",
    "Limit": 7,
    "FilterExpression": "id >= :least",
    "ExpressionAttributeValues": {":least": {"N": "12"}},
}
HEADERS = {
    "x-amz-target": "DynamoDB_20120810.Scan",
    "content-type": "application/x-amz-json-1.0",
    "authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/dynamodb/"
    "aws4_request, SignedHeaders=host, Signature=0",
}


@pytest.fixture(scope="module")
def moto(launch: Callable[..., str]) -> str:
    """Return the address of a moto server."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"]
    return launch(*command)


def client(service: str, moto: str) -> Any:
    """Return boto3's client for a service of the server."""
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    return boto3.client(service, endpoint_url=moto, region_name="us-east-1", **keys)


@pytest.fixture(scope="module")
def bucket(moto: str) -> tuple[str, list[str]]:
    """Return the address of a bucket, and its keys as botocore's paginator has them."""
    s3 = client("s3", moto)
    s3.create_bucket(Bucket="events")
    for key in KEYS:
        s3.put_object(Bucket="events", Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="events", MaxKeys=10)
    return f"{moto}/events", [
        item["Key"] for page in pages for item in page["Contents"]
    ]


@pytest.fixture(scope="module")
def table(moto: str) -> tuple[str, list[list[Any]]]:
    """Return the address of a table, and botocore's pages of a filtered scan."""
    dynamo = client("dynamodb", moto)
    dynamo.create_table(
        TableName="events",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for n in range(30):
        dynamo.put_item(TableName="events", Item={"id": {"N": str(n)}})
    pages = dynamo.get_paginator("scan").paginate(**SCAN)
    return f"{moto}/", [page["Items"] for page in pages]


def keys(response: Any) -> list[str]:
    """Return the keys on a page of S3's XML."""
    found = ElementTree.fromstring(response.content).iter(f"{SPACE}Key")
    return [key.text or "" for key in found]


def token(response: Any) -> str | None:
    """Return the continuation token of a page of S3's XML, if there is one."""
    root = ElementTree.fromstring(response.content)
    return root.findtext(f"{SPACE}NextContinuationToken")


@pytest.mark.parametrize("taken", [None, 25])
def test_s3_keys_come_as_botocore_has_them(
    walker: Any, bucket: tuple[str, list[str]], taken: int | None
) -> None:
    """XML read by two functions gives botocore's keys, in one walk or in two."""
    url, wanted = bucket
    style = walker.paginator.Cursor(token, param="continuation-token")
    request = {"params": {"list-type": "2", "max-keys": "10"}}
    walked = walker.walk(url, style, items=keys, request=request, take=taken)
    got = walked.items
    if taken:
        assert len(got) == taken
        rest = walker.walk(
            url, style, items=keys, request=request, resume=walked.checkpoint
        )
        got = got + rest.items
    assert got == wanted
    assert sorted(got) == sorted(KEYS)


def test_dynamodb_empty_pages_end_nothing(
    walker: Any, table: tuple[str, list[list[Any]]]
) -> None:
    """A scan goes on through pages without items to the last, as botocore's does."""
    url, wanted = table
    style = walker.paginator.Cursor("LastEvaluatedKey", body="ExclusiveStartKey")
    request = {"method": "POST", "headers": HEADERS, "json": SCAN}
    pages: list[Any] = []
    walked = walker.walk(
        url, style, items="Items", request=request, on_page=pages.append
    )
    assert [page.items for page in pages] == wanted
    assert [] in wanted[:-1]
    assert walked.items == [item for page in wanted for item in page]


def test_dynamodb_resumes_behind_an_empty_page(
    walker: Any, table: tuple[str, list[list[Any]]]
) -> None:
    """A token that is an object goes into a checkpoint and comes back whole."""
    url, pages = table
    wanted = [item for page in pages for item in page]
    style = walker.paginator.Cursor("LastEvaluatedKey", body="ExclusiveStartKey")
    same: dict[str, Any] = {
        "items": "Items",
        "request": {"method": "POST", "headers": HEADERS, "json": SCAN},
    }
    before = walker.walk(url, style, take=5, **same)
    after = walker.walk(url, style, resume=before.checkpoint, **same)
    assert len(before.items) == 5
    assert before.items + after.items == wanted
    assert "Credential" not in before.checkpoint
