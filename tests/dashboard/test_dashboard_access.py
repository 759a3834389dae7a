"""Who is let in: this machine alone, a login, a token, one's own judgement; and what guessing costs."""

import re

import pytest

from amqptasks.dashboard import Access, asgi
from amqptasks.dashboard.sessions import GUESSES, Guesses, Session, Sessions
from amqptasks.errors import ImproperlyConfigured
from tests.support.observing import FakeObserver

LOGIN = {"user": "ann", "password": "right"}
PAGES = ("/", "/queues", "/workers", "/tasks", "/dead", "/schedules", "/tasks/x", "/find?id=x")


def log_in(browser, user="ann", password="right", page="/login", **more):
    form = {"form_token": browser.token("/login"), "user": user, "password": password, **more}
    return browser.post(page, data=form, follow_redirects=False)


# --- this machine ----------------------------------------------------------------------------------------


def test_without_a_login_this_machine_is_let_in(open_dashboard) -> None:
    for host in ("localhost", "localhost:5555", "127.0.0.1:5555", "[::1]:5555"):
        assert open_dashboard(host=host).get("/").status_code == 200
    assert open_dashboard(client="::1").get("/").status_code == 200


@pytest.mark.parametrize("page", [*PAGES, "/api/overview"])
def test_without_a_login_others_are_not(open_dashboard, observer, page) -> None:
    for browser in (
        open_dashboard(client="10.0.0.7"),
        open_dashboard(client="10.0.0.7", hosts=("*",), host="shop.example"),
    ):
        answer = browser.get(page, follow_redirects=False)
        assert answer.status_code == 403
        assert "only browsers on this machine" in answer.text
        assert "rabbit" not in answer.text


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_proxy_on_this_machine_speaks_for_others(browser, header) -> None:
    assert browser.get("/", headers={header: "10.0.0.7"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5555", "10.0.0.1:5555", "localhost.evil.example", ""]
)
def test_a_name_that_points_here_is_not_ours(browser, observer, host) -> None:
    """DNS rebinding: a page of another name, whose address is now 127.0.0.1, may read nothing."""
    assert (
        browser.get("/healthz", headers={"host": host}).status_code == 200
    )  # a probe's, which tells nothing
    for page in ("/", "/api/overview", "/login"):
        answer = browser.get(page, headers={"host": host})
        assert answer.status_code == 400
        assert "--allowed-host" in answer.text


def test_a_name_can_be_allowed(open_dashboard) -> None:
    browser = open_dashboard(hosts=("shop.example",))

    assert browser.get("/", headers={"host": "shop.example:5555"}).status_code == 200
    assert browser.get("/", headers={"host": "SHOP.example"}).status_code == 200
    assert browser.get("/").status_code == 200
    assert browser.get("/", headers={"host": "other.example"}).status_code == 400


def test_insecure_lets_everybody_in(open_dashboard) -> None:
    browser = open_dashboard(client="10.0.0.7", host="shop.example", insecure="the proxy asks for a login")

    assert browser.get("/").status_code == 200


# --- the login -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_stranger_is_led_to_the_login_and_back(open_dashboard, page) -> None:
    browser = open_dashboard(**LOGIN)

    answer = browser.get(page, follow_redirects=False)

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=%2F")
    form = browser.get(page).text
    assert "rabbit" not in form
    wanted = re.search(r'name="next" value="([^"]*)"', form)[1]
    assert wanted == page
    assert log_in(browser, next=wanted).headers["location"] == page
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize("action", ["shutdown", "purge", "none"])
def test_a_stranger_presses_nothing(open_dashboard, observer, action) -> None:
    browser = open_dashboard(**LOGIN)
    form = {"form_token": browser.token("/login"), "node": "w1@shop", "queue": "mail", "sure": "yes"}

    answer = browser.post(f"/do/{action}", data=form)

    assert answer.status_code == 401
    assert observer.done == []


def test_a_stranger_reads_no_json(open_dashboard) -> None:
    answer = open_dashboard(**LOGIN).get("/api/overview")

    assert answer.status_code == 401
    assert answer.json()["error"] == "You are not logged in."


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "wrong"), ("bob", "right"), ("", ""), ("ann", ""), ("ann", "right "), ("\ud7ff", "é")],
)
def test_a_wrong_login_is_refused(open_dashboard, user, password) -> None:
    browser = open_dashboard(**LOGIN)

    answer = log_in(browser, user, password)

    assert answer.status_code == 401
    assert "That is not right." in answer.text
    assert browser.get("/", follow_redirects=False).status_code == 303


def test_a_login_needs_a_form_of_ours(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)

    answer = browser.post("/login", data={"user": "ann", "password": "right"})

    assert answer.status_code == 403
    assert browser.get("/", follow_redirects=False).status_code == 303


def test_the_session_cannot_be_read_by_scripts_or_sent_by_other_sites(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    before = browser.token("/login")

    cookie = log_in(browser).headers["set-cookie"]

    for wanted in ("amqptasks_session=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
        assert wanted in cookie
    assert "Secure" not in cookie  # over http it would not be sent back
    assert "right" not in cookie
    assert browser.token() != before  # a session of its own: the one before may have been planted


def test_over_https_the_session_is_sent_over_https_alone(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    browser.base_url = "https://localhost"

    assert "Secure" in log_in(browser).headers["set-cookie"]


def test_logging_out(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    log_in(browser)
    shown = browser.get("/").text
    assert "Log out" in shown

    browser.post("/logout", data={"form_token": browser.token()})

    assert browser.get("/", follow_redirects=False).status_code == 303


def test_who_has_logged_out_cannot_come_back_with_a_copy_of_his_cookie(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    log_in(browser)
    copy = dict(browser.cookies)
    token = browser.token()
    browser.post("/logout", data={"form_token": token})
    browser.cookies.update(copy)

    assert browser.get("/", follow_redirects=False).status_code == 303
    assert browser.post("/do/shutdown", data={"form_token": token, "node": "w1@shop"}).status_code == 401


def test_sessions_that_were_ended_are_forgotten_with_their_time() -> None:
    now = [1000.0]
    sessions = Sessions(b"secret", lambda: now[0])
    first = sessions.begin("ann")
    sessions.end(first)
    assert sessions.read(sessions.cookie(first)) is None
    now[0] += 12 * 3600 + 1
    sessions.end(sessions.begin("ann"))
    assert len(sessions._ended) == 1
    for _ in range(12_000):
        sessions.end(sessions.begin("ann"))
    assert len(sessions._ended) == 10_000


def test_guessing_is_slow(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    for _ in range(GUESSES):
        assert log_in(browser, password="wrong").status_code == 401

    answer = log_in(browser)

    assert answer.status_code == 429
    assert "Wait a minute" in answer.text


def test_guesses_are_of_a_minute_and_an_address() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    for _ in range(GUESSES):
        guesses.wrong("a")
    assert guesses.spent("a")
    assert not guesses.spent("b")
    now[0] = 61.0
    assert not guesses.spent("a")
    for each in range(3000):
        guesses.wrong(f"address {each}")
    assert len(guesses._wrong) == 1000


def test_a_link_from_elsewhere_finds_the_session_again(open_dashboard) -> None:
    """A browser does not send a Strict cookie with it; the login page asks once more, from here."""
    browser = open_dashboard(**LOGIN)

    shown = browser.get("/login?next=/tasks/x", headers={"sec-fetch-site": "cross-site"}).text

    assert '<meta http-equiv="refresh" content="0; url=/tasks/x">' in shown
    assert (
        "refresh" not in browser.get("/login?next=/tasks/x", headers={"sec-fetch-site": "same-origin"}).text
    )
    evil = browser.get("/login?next=//evil.example", headers={"sec-fetch-site": "cross-site"}).text
    assert 'name="next" value="/"' in evil
    assert 'url=/"' in evil


def test_who_is_logged_in_needs_no_login_page(open_dashboard) -> None:
    browser = open_dashboard(**LOGIN)
    log_in(browser)

    assert browser.get("/login?next=/queues").url.path == "/queues"


def test_a_session_ends_with_its_time_and_with_its_secret() -> None:
    now = [1000.0]
    sessions = Sessions(b"secret", lambda: now[0])
    session = sessions.begin("ann:x")
    cookie = sessions.cookie(session)

    assert sessions.read(cookie) == session
    assert Sessions(b"secret", lambda: now[0]).read(cookie) == session
    assert Sessions(b"other", lambda: now[0]).read(cookie) is None
    assert Sessions(clock=lambda: now[0]).read(cookie) is None
    now[0] += 12 * 3600 + 1
    assert sessions.read(cookie) is None


@pytest.mark.parametrize("cookie", [None, "", ".", "x.y", "a" * 5000, "%00.%00", "\u00e9.\u00e9"])
def test_a_made_up_cookie_is_none(cookie) -> None:
    assert Sessions(b"secret").read(cookie) is None


def test_one_cookie_is_not_another() -> None:
    """What is signed for one purpose is no good for the other."""
    sessions = Sessions(b"secret")
    told = sessions.sign("told", "id:99999999999:ann")

    assert sessions.read(told) is None
    assert sessions.unsign("told", told) == "id:99999999999:ann"
    assert not sessions.is_form_token(Session("a", "", 0), sessions.form_token(Session("b", "", 0)))


# --- token, own judgement --------------------------------------------------------------------------------


def test_a_token_is_for_programs(open_dashboard, observer) -> None:
    browser = open_dashboard(token="secret", client="10.0.0.7", host="shop.example")
    bearer = {"authorization": "Bearer secret"}

    assert browser.get("/api/overview", headers=bearer).json()["ready"] == 1293
    assert browser.get("/api/overview", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert browser.get("/api/overview", headers={"authorization": "Bearer "}).status_code == 401
    # A browser would not send it by itself, so no form's token is asked for.
    answer = browser.post(
        "/do/pool_grow", data={"node": "w1@shop", "n": "1"}, headers=bearer, follow_redirects=False
    )
    assert answer.status_code == 303
    assert observer.done == [("pool_grow", "w1@shop", 1)]


def test_a_token_opens_the_pages_too(open_dashboard) -> None:
    browser = open_dashboard(token="secret")
    assert 'name="user"' not in browser.get("/login").text

    assert log_in(browser, "", "secret").status_code == 303
    assert browser.get("/").status_code == 200


def test_ones_own_judgement_decides(open_dashboard, observer) -> None:
    def authorize(request):
        return {"reader": "read", "admin": "write"}.get(request.headers.get("x-role", ""))

    browser = open_dashboard(authorize=authorize, client="10.0.0.7", host="shop.example")
    assert browser.get("/").status_code == 403
    for role, buttons in (("reader", False), ("admin", True)):
        shown = browser.get("/workers/w1@shop", headers={"x-role": role})
        assert shown.status_code == 200
        assert ("/do/" in shown.text) is buttons
        token = re.search(r'name="form_token" value="(\w+)"', shown.text)[1]
        form = {"form_token": token, "node": "w1@shop", "n": "1"}
        browser.post("/do/pool_grow", data=form, headers={"x-role": role})
        assert bool(observer.done) is buttons


def test_half_a_login_is_refused() -> None:
    for half in ({"user": "ann"}, {"password": "x"}):
        with pytest.raises(ImproperlyConfigured, match="needs a user and a password"):
            Access(**half)


def test_secrets_are_not_printed() -> None:
    shown = repr(Access(user="ann", password="right", token="key"))

    assert "right" not in shown
    assert "key" not in shown


def test_the_apps_name_is_on_the_page(app) -> None:
    made = asgi(app, observer=FakeObserver(), read_only=True)

    assert made.access.read_only
    assert not made.observer.running
