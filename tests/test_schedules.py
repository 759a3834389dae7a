"""Due times: intervals, crontabs in zones with daylight saving, the sun; the fields of a crontab as Celery reads them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import BaseSchedule, crontab, schedule, solar
from amqptasks.schedules.base import local_zone
from amqptasks.schedules.cronfields import FIELDS, expand
from amqptasks.schedules.reading import as_schedule, from_spec

BERLIN, NEW_YORK, LORD_HOWE = (
    ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
)


def due(when: BaseSchedule, start: str, count: int, zone: ZoneInfo | None = None) -> list[str]:
    """The next due times after `start`, as the clock on the wall shows them, with the offset."""
    place = when.tz or zone or UTC
    moment = datetime.fromisoformat(start)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=place)
    found = []
    for _ in range(count):
        following = when.next_after(moment, zone or UTC)
        assert following is not None
        assert following > moment
        moment = following
        found.append(moment.astimezone(place).strftime("%m-%d %H:%M%z"))
    return found


def test_an_interval_is_counted_from_the_last_due_time() -> None:
    start = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)

    assert schedule(30).next_after(start) == start + timedelta(seconds=30)
    assert schedule(timedelta(hours=1)).next_after(start) == start + timedelta(hours=1)


def test_a_relative_interval_is_rounded_down_to_its_resolution() -> None:
    start = datetime(2026, 1, 1, 13, 14, 15, tzinfo=UTC)

    assert schedule(timedelta(days=1), relative=True).next_after(start, UTC) == datetime(
        2026, 1, 2, tzinfo=UTC
    )
    assert schedule(3600, relative=True).next_after(start, UTC) == datetime(2026, 1, 1, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (crontab(), ["01-01 00:01+0000", "01-01 00:02+0000"]),
        (crontab(minute="*/15"), ["01-01 00:15+0000", "01-01 00:30+0000"]),
        (crontab(0, 0), ["01-02 00:00+0000", "01-03 00:00+0000"]),
        (crontab(minute=0, hour="*/3,8-10"), ["01-01 03:00+0000", "01-01 06:00+0000"]),
        (crontab(30, 7, "mon-fri"), ["01-01 07:30+0000", "01-02 07:30+0000"]),
        (crontab(0, 0, "sun"), ["01-04 00:00+0000", "01-11 00:00+0000"]),
        (crontab(0, 0, day_of_month=31), ["01-31 00:00+0000", "03-31 00:00+0000"]),
        # Both must match, as in Celery; in a crontab file one would be enough.
        (crontab(0, 0, "fri", 13), ["02-13 00:00+0000", "03-13 00:00+0000"]),
        (crontab(0, 0, day_of_month=29, month_of_year="feb"), ["02-29 00:00+0000", "02-29 00:00+0000"]),
        (crontab.from_string("5 4 1 jun *"), ["06-01 04:05+0000", "06-01 04:05+0000"]),
        (crontab(minute=[10, 20], hour={1}), ["01-01 01:10+0000", "01-01 01:20+0000"]),
    ],
    ids=repr,
)
def test_crontabs(when: crontab, expected: list[str]) -> None:
    assert due(when, "2026-01-01T00:00", 2) == expected


def test_spring_a_time_that_does_not_exist_runs_once_at_the_gaps_end() -> None:
    assert due(crontab("*/15", 2, tz=BERLIN), "2026-03-28T12:00", 2) == [
        "03-29 03:00+0200",
        "03-30 02:00+0200",
    ]
    assert due(crontab(30, 2, tz=NEW_YORK), "2026-03-07T12:00", 2) == ["03-08 03:00-0400", "03-09 02:30-0400"]
    # Lord Howe's clock is changed by half an hour.
    assert due(crontab(15, 2, tz=LORD_HOWE), "2026-10-03T12:00", 2) == [
        "10-04 02:30+1100",
        "10-05 02:15+1100",
    ]


def test_autumn_a_time_that_comes_twice_runs_once() -> None:
    assert due(crontab(30, 2, tz=BERLIN), "2026-10-24T12:00", 2) == ["10-25 02:30+0200", "10-26 02:30+0100"]
    assert due(crontab(30, 1, tz=NEW_YORK), "2026-10-31T12:00", 2) == ["11-01 01:30-0400", "11-02 01:30-0500"]
    assert due(crontab(45, 1, tz=LORD_HOWE), "2026-04-04T12:00", 2) == [
        "04-05 01:45+1100",
        "04-06 01:45+1030",
    ]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        (BERLIN, "2026-03-29", 23),
        (BERLIN, "2026-10-25", 25),
        (NEW_YORK, "2026-03-08", 23),
        (NEW_YORK, "2026-11-01", 25),
        (BERLIN, "2026-06-01", 24),
    ],
    ids=str,
)
def test_an_hourly_crontab_follows_the_real_hours(zone: ZoneInfo, day: str, hours: int) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=zone)
    moment = (start.astimezone(UTC)) - timedelta(minutes=30)
    found = []
    while len(found) < hours:
        following = crontab(0, tz=zone).next_after(moment)
        assert following is not None
        found.append(following)
        moment = following

    assert found == [start.astimezone(UTC) + timedelta(hours=number) for number in range(hours)]
    assert found[-1].astimezone(zone).date() == start.date()
    assert crontab(0, tz=zone).next_after(moment).astimezone(zone).date() > start.date()  # type: ignore[union-attr]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE], ids=str)
def test_each_day_of_a_year_has_its_run(zone: ZoneInfo) -> None:
    for when in (crontab(30, 2, tz=zone), crontab(45, 1, tz=zone), crontab(0, 0, tz=zone)):
        days = [text[:5] for text in due(when, "2025-12-31T23:59", 365)]

        assert len(set(days)) == 365


def test_the_apps_zone_counts_where_a_crontab_has_none() -> None:
    assert due(crontab(0, 9), "2026-07-01T00:00", 1, BERLIN) == ["07-01 09:00+0200"]


@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_fields_mean_what_they_mean_to_celery(field: str, data: st.DataObject) -> None:
    theirs = pytest.importorskip("celery.schedules")
    low, high = FIELDS[field].low, FIELDS[field].high
    number = st.integers(low, high).map(str)
    part = st.one_of(
        st.just("*"),
        number,
        st.tuples(number, number).map("-".join),
        st.integers(1, 40).map("*/{}".format),
        st.tuples(number, number, st.integers(1, 9)).map(lambda each: f"{each[0]}-{each[1]}/{each[2]}"),
    )
    text = ",".join(data.draw(st.lists(part, min_size=1, max_size=3)))

    assert expand(field, text) == theirs.crontab_parser(high - low + 1, low).parse(text)


def test_days_and_months_have_names() -> None:
    assert expand("day_of_week", "mon-fri") == {1, 2, 3, 4, 5}
    assert expand("day_of_week", "fri-mon") == {5, 6, 0, 1}
    assert expand("day_of_week", "Sunday") == {0}
    assert expand("month_of_year", "jan,dec") == {1, 12}


@pytest.mark.parametrize("text", ["", "60", "*/0", "a", "1-", "5/2", "-1", "1,,2"])
def test_a_wrong_field_is_named(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="minute"):
        crontab(minute=text)


def test_a_date_that_never_comes_and_an_interval_of_nothing_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="never comes"):
        crontab(0, 0, day_of_month=30, month_of_year=2)
    with pytest.raises(ImproperlyConfigured, match="above zero"):
        schedule(0)
    with pytest.raises(ImproperlyConfigured, match="no time zone"):
        crontab(tz="Mars/Olympus")
    with pytest.raises(ImproperlyConfigured, match="five"):
        crontab.from_string("* * *")
    with pytest.raises(ImproperlyConfigured, match="no schedule"):
        as_schedule("soon")


@pytest.mark.parametrize(
    "when", [schedule(30), schedule(60, relative=True), crontab("*/5", tz=BERLIN), crontab(0, 0, "mon", 1, 2)]
)
def test_a_schedule_survives_its_spec(when: BaseSchedule) -> None:
    spec = when.spec()
    assert spec is not None
    again = from_spec(spec)

    assert again == when
    assert repr(again) == repr(when)


def test_is_due_answers_as_celerys_does() -> None:
    now = datetime.now(UTC)

    assert schedule(60).is_due(now - timedelta(seconds=61)).is_due
    waiting = schedule(60).is_due(now)
    assert not waiting.is_due
    assert 0 < waiting.next <= 60


def test_the_machines_zone_is_found() -> None:
    assert datetime.now(local_zone()).utcoffset() == datetime.now(UTC).astimezone().utcoffset()


def test_the_sun() -> None:
    pytest.importorskip("ephem")
    found = due(solar("sunset", 51.48, 0.0), "2026-06-01T00:00", 3)
    assert found == ["06-01 20:07+0000", "06-02 20:08+0000", "06-03 20:09+0000"]
    noon = solar("solar_noon", 0, 0).next_after(datetime(2026, 1, 1, tzinfo=UTC))
    assert noon is not None
    assert (noon.hour, noon.minute) == (12, 3)
    # Above the polar circle the sun that does not set sets again in July.
    polar = solar("sunset", 70, 25).next_after(datetime(2026, 6, 1, tzinfo=UTC))
    assert polar is not None
    assert polar.month == 7
    with pytest.raises(ImproperlyConfigured, match="no solar event"):
        solar("moonrise", 0, 0)
