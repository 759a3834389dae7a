"""Logging in and out, and the choice between light and dark."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from amqptasks.dashboard.access import Access
from amqptasks.dashboard.guard import keep, visit_of
from amqptasks.dashboard.rendering import THEME, THEMES, Renderer, own_address, set_cookie
from amqptasks.dashboard.sessions import Guesses, Sessions

YEAR = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Entrance:
    access: Access
    sessions: Sessions
    renderer: Renderer
    guesses: Guesses

    def login(self, request: Request) -> Response:
        """Show the form, or judge what was filled in."""
        if not self.access.has_login:
            return self.renderer.back(request, "/")
        if request.method == "POST":
            return self._judged(request)
        wanted = own_address(request.query_params.get("next", "/"))
        if visit_of(request).role is not None:
            return self.renderer.back(request, wanted)
        # Who follows a link from elsewhere does not send his cookie (SameSite=Strict); from a page of ours he does.
        again = wanted if request.headers.get("sec-fetch-site") == "cross-site" else ""
        return self._form(request, wanted, again=again)

    def _judged(self, request: Request) -> Response:
        visit = visit_of(request)
        wanted = own_address(visit.field("next", "/"))
        who = request.client.host if request.client else ""
        if self.guesses.spent(who):
            return self._form(request, wanted, "Too many wrong passwords. Wait a minute.", status=429)
        password = visit.form.get("password", ("",))[0]
        user = self.access.admits(visit.field("user"), password)
        if not user:
            self.guesses.wrong(who)
            return self._form(request, wanted, "That is not right.", status=401)
        answer = self.renderer.back(request, wanted)
        # A new session: who knew the one from before must not have gained anything.
        keep(answer.headers, request, self.sessions.cookie(self.sessions.begin(user)))
        return answer

    def _form(
        self, request: Request, wanted: str, problem: str = "", *, again: str = "", status: int = 200
    ) -> Response:
        return self.renderer.page(
            request, "login.html", status=status, public=True, wanted=wanted, problem=problem, again=again
        )

    def logout(self, request: Request) -> Response:
        answer = self.renderer.back(request, "/login" if self.access.has_login else "/")
        if (session := visit_of(request).session).user:
            self.sessions.end(session)
        keep(answer.headers, request, "")
        return answer

    def theme(self, request: Request) -> Response:
        visit = visit_of(request)
        chosen = visit.field("theme")
        answer = self.renderer.back(request, visit.field("back", "/"))
        set_cookie(answer, request, THEME, chosen if chosen in THEMES else "auto", YEAR)
        return answer
