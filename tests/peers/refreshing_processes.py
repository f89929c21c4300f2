"""A process that gets an access token, as many of them do at once in the tests.

`python refreshing_processes.py TOKEN_URL STORE` says `ready`, waits for a line, gets a
token by `patterns/auth/oauth2.py` and prints it, or the error's code. STORE is the path
of a shared file, or the refresh token that it keeps to itself, behind `=`.
"""

from __future__ import annotations

import sys

from patterns.auth import oauth2, token_store


def main(token_url: str, where: str) -> None:
    """Get a token, and say which one."""
    if where.startswith("="):
        kept = {"refresh_token": where[1:]}
    else:
        kept = {"store": token_store.FileTokenStore(where)}
    auth = oauth2.RefreshToken(token_url=token_url, client_id="tool", **kept)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(auth.get_token().access_token)
    except oauth2.OAuth2Error as exc:
        print(exc.error)


if __name__ == "__main__":
    main(*sys.argv[1:])
