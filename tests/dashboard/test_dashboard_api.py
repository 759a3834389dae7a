"""The snapshots as JSON: the same values as on the pages, bounded, and read only."""

import pytest

from tests.support.observing import CHILD, FAILED, ROOT, TASKS


@pytest.mark.parametrize(
    ("path", "look", "wanted"),
    [
        ("overview", lambda found: found["ready"], 1293),
        ("queues", lambda found: [row["name"] for row in found], ["mail", "orders", "reports", "soon"]),
        ("queues?internal=1", len, 7),
        ("workers", lambda found: found[0]["node"], "w1@shop"),
        ("workers/w1@shop", lambda found: found["active"][0]["name"], "shop.report"),
        ("tasks", lambda found: [row["id"] for row in found], [row.id for row in TASKS]),
        ("tasks?state=FAILURE", lambda found: [row["id"] for row in found], [FAILED]),
        ("tasks?limit=2", len, 2),
        (f"tasks/{FAILED}", lambda found: found["row"]["exception"], "ValueError('card declined')"),
        (f"graph/{ROOT}", lambda found: [node["id"] for node in found["nodes"]], [ROOT, CHILD, FAILED]),
        ("dead?limit=1", lambda found: (len(found["rows"]), found["total"]), (1, 2)),
        ("dead?queue=mail", lambda found: found["rows"][0]["reason"], "undecodable"),
        ("schedules", lambda found: [row["name"] for row in found["rows"]], ["nightly", "often"]),
        ("series/throughput?limit=10", lambda found: len(found["times"]), 10),
    ],
)
def test_the_same_values_as_json(browser, path, look, wanted) -> None:
    answer = browser.get(f"/api/{path}")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert look(answer.json()) == wanted


@pytest.mark.parametrize("path", ["workers/none", "tasks/none", "graph/none", "series/none", "none"])
def test_what_is_not_known_is_404(browser, path) -> None:
    answer = browser.get(f"/api/{path}")

    assert answer.status_code == 404
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["tasks?limit=x", "tasks?before=x", "dead?offset=x"])
def test_what_is_no_number_is_400(browser, path) -> None:
    assert browser.get(f"/api/{path}").status_code == 400


def test_nothing_is_changed_by_it(browser, observer) -> None:
    for method in ("post", "put", "delete"):
        assert getattr(browser, method)("/api/queues").status_code == 403
    assert observer.done == []


def test_health_tells_of_the_broker_and_of_nothing_else(open_dashboard) -> None:
    browser = open_dashboard(user="ann", password="right")

    assert browser.get("/healthz").json() == {"status": "ok", "broker": True}
