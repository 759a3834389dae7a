"""A browser's manners before a dashboard: cookies, the forms' token, redirects."""

import re
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # it would rather have httpx2; httpx does, and is what FastAPI's users have
    from starlette.testclient import TestClient

TOLD = re.compile(r'<div class="notice .*?</div></div>', re.DOTALL)
TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')


class Browser(TestClient):
    """`press("shutdown", node=...)` sends the form that a page of ours would have had."""

    def token(self, page: str = "/") -> str:
        found = TOKEN.search(self.get(page).text)
        assert found, f"no form on {page}"
        return found[1]

    def press(self, action: str, **fields: Any) -> Any:
        form = {"form_token": self.token(), "back": "/workers", **fields}
        return self.post(f"/do/{action}", data=form, follow_redirects=False)

    def told(self) -> str:
        """What the next page says of the last click."""
        return "\n".join(
            TOLD.findall(self.get("/workers").text.partition('id="told"')[2].partition("data-live")[0])
        )
