"""POST for many requests at once: repeats what may succeed later, and raises for refusals."""

import asyncio
import math
from typing import Any, Final

import httpx

from steersman.client.errors import Refused, Unreachable, WrongUsage
from steersman.client.http import refusal, without_proxy

TRIES: Final = 8
_LATER: Final = frozenset({429, 500, 502, 503, 504})
_LONGEST_WAIT: Final = 30.0


def connect(url: str, key: str | None) -> httpx.AsyncClient:
    """A client of `url` without a time limit for answers. Raises `WrongUsage`."""
    try:
        return httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            mounts=without_proxy(url),
        )
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise WrongUsage(f"{url!r} or its key cannot be used: {error}") from error


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """POST, and return the JSON of the answer. If the server is busy, fails or closes the
    connection, the request is repeated, after the time that the server names: one answer of
    hundreds must not end all. Raises `Refused`, `Unreachable` and `WrongUsage`."""
    for attempt in range(TRIES):
        try:
            answer = await http.post(path, json=body)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise WrongUsage(f"{http.base_url} is not an address: {error}") from error
        except httpx.TransportError as error:
            if attempt == TRIES - 1:
                why = str(error) or type(error).__name__
                raise Unreachable(
                    f"no server answers at {http.base_url} ({why})", code="unreachable"
                ) from error
            asked = 0.0
        else:
            if answer.status_code not in _LATER or attempt == TRIES - 1:
                break
            asked = _asked(answer)
        await asyncio.sleep(min(_LONGEST_WAIT, max(asked, math.ldexp(0.5, attempt))))
    if not answer.is_success:
        raise refusal(answer)
    try:
        return answer.json()
    except ValueError:
        raise Refused(f"the answer to POST {answer.url} is not JSON") from None


def _asked(answer: httpx.Response) -> float:
    """Seconds to wait, from the answer's Retry-After; 0 if it has none."""
    try:
        return float(answer.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
