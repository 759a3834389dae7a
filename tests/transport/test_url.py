"""Broker URLs mean what they mean to kombu, and say what is wrong without telling the password."""

from __future__ import annotations

import pickle
import ssl

import pytest
from kombu import Connection

from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport.url import TLS, BrokerURL, parse


def one(url: str, **options: object) -> BrokerURL:
    (parsed,) = parse(url, **options)  # type: ignore[arg-type]
    return parsed


@pytest.mark.parametrize(
    ("url", "vhost"),
    [
        ("amqp://guest@localhost//", "/"),
        ("amqp://guest:guest@localhost//", "/"),
        ("amqp://guest@localhost", "/"),
        ("amqp://guest@localhost/", "/"),
        ("amqp://", "/"),
        ("amqp://h/vh", "vh"),
        ("amqp://h/%2Fvh", "/vh"),
        ("amqp://h//vh", "/vh"),
        ("amqp://h/%2F", "/"),
        ("amqp://h/a%20b/c", "a b/c"),
        ("amqp://h/vh/", "vh/"),
    ],
)
def test_the_vhost_is_what_follows_the_first_slash(url: str, vhost: str) -> None:
    assert one(url).vhost == vhost


@pytest.mark.parametrize(
    "url",
    [
        "amqp://",
        "amqp://guest@localhost//",
        "amqp://guest:guest@localhost//",
        "amqp://bob@rabbit:5673/prod",
        "amqp://bob:@rabbit",
        "amqp://:secret@rabbit",
        "amqp://b%40b:p%2Fw%3A%23@rabbit/%2Fa%2Fb",
        "amqp://[::1]:5673/v",
        "amqp://[2001:db8::7]//",
        "pyamqp://u:p@RABBIT.example.org:5/v",
        "amqp://u:p:q@h/v",
        "amqp://u:p@h//v//w",
    ],
)
def test_every_part_is_read_as_kombu_reads_it(url: str) -> None:
    theirs = Connection(url)
    defaults = theirs.transport.default_connection_params

    ours = one(url)

    assert ours.host == (theirs.hostname or defaults["hostname"])
    assert ours.port == (theirs.port or defaults["port"])
    assert ours.user == (theirs.userid or defaults["userid"])
    assert ours.password == (theirs.password or defaults["password"])
    assert ours.vhost == theirs.virtual_host


def test_several_hosts_are_a_list_or_separated_by_semicolons() -> None:
    by_text = parse("amqp://a//; amqp://b:5673//;")
    by_list = parse(["amqp://a//", "amqp://b:5673//"])

    assert by_text == by_list
    assert [(url.host, url.port) for url in by_text] == [("a", 5672), ("b", 5673)]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("rabbit", "rabbit", 5672), ("rabbit:5673", "rabbit", 5673), ("10.0.0.7//", "10.0.0.7", 5672)],
)
def test_a_bare_host_is_amqp(text: str, host: str, port: int) -> None:
    parsed = one(text)

    assert (parsed.scheme, parsed.host, parsed.port, parsed.vhost) == ("amqp", host, port, "/")


def test_the_password_shows_nowhere() -> None:
    parsed = one("amqps://bob:s3cret@h/v?ssl_keyfile_password=s4cret")

    assert str(parsed) == "amqps://bob:**@h:5671/v"
    for text in (repr(parsed), f"{parsed}", repr(parsed.tls), parsed.masked()):
        assert "s3cret" not in text
        assert "s4cret" not in text
    assert parsed.password == "s3cret"
    assert parsed.tls is not None
    assert parsed.tls.password == "s4cret"


@pytest.mark.parametrize(
    "url", ["amqp://u:**@h:5672//", "amqp://u:**@[::1]:5672//vh", "amqp://u:**@h:1/a%20b"]
)
def test_the_masked_text_reads_back_as_the_same_place(url: str) -> None:
    assert one(url).masked() == url


def test_a_url_is_a_value() -> None:
    parsed = one("amqps://h/?heartbeat=3&cacertfile=ca.pem")

    assert pickle.loads(pickle.dumps(parsed)) == parsed
    assert len({parsed, one("amqps://h/?heartbeat=3&cacertfile=ca.pem")}) == 1


def test_query_parameters_are_typed_options() -> None:
    parsed = one(
        "amqp://h/v?heartbeat=10&connection_timeout=2.5&login_method=external&frame_max=8192&channel_max=7&name=w1"
    )

    assert parsed.options == {
        "heartbeat": 10.0,
        "connection_timeout": 2.5,
        "login_method": "EXTERNAL",
        "frame_max": 8192,
        "channel_max": 7,
        "name": "w1",
    }
    assert one("amqp://h?connect_timeout=3").options == {"connection_timeout": 3.0}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cacertfile=ca.pem", TLS(cafile="ca.pem")),
        ("ssl_cafile=ca.pem", TLS(cafile="ca.pem")),
        ("ssl_ca_certs=ca.pem&ssl_cert_reqs=CERT_REQUIRED", TLS(cafile="ca.pem")),
        ("certfile=c.pem&keyfile=k.pem", TLS(certfile="c.pem", keyfile="k.pem")),
        ("verify=verify_none", TLS(verify=False)),
        ("verify=verify_peer", TLS(verify=True)),
        ("ssl_cert_reqs=none", TLS(verify=False)),
        ("ssl_check_hostname=false", TLS(check_hostname=False)),
        ("server_name_indication=rabbit.example.org", TLS(server_name="rabbit.example.org")),
        ("ssl=true", TLS()),
    ],
)
def test_tls_parameters_make_it_tls(query: str, expected: TLS) -> None:
    for scheme in ("amqp", "amqps"):
        parsed = one(f"{scheme}://h/?{query}")

        assert parsed.tls == expected
        assert (parsed.scheme, parsed.port) == ("amqps", 5671)


def test_the_setting_broker_use_ssl_counts_where_the_url_is_silent() -> None:
    setting = {"ca_certs": "setting.pem", "cert_reqs": ssl.CERT_NONE, "keyfile": None}

    assert one("amqp://h", use_ssl=True).tls == TLS()
    assert one("amqp://h", use_ssl=setting).tls == TLS(cafile="setting.pem", verify=False)
    assert one("amqp://h?cafile=url.pem", use_ssl=setting).tls == TLS(cafile="url.pem", verify=False)
    assert one("amqp://h", use_ssl=False).tls is None
    assert one("memory://", use_ssl=True).tls is None


def test_tls_verifies_certificate_and_name_unless_told_otherwise() -> None:
    strict, lax, nameless = TLS().context(), TLS(verify=False).context(), TLS(check_hostname=False).context()

    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    assert (nameless.verify_mode, nameless.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_memory_names_a_broker_of_this_process() -> None:
    named, unnamed = one("memory://t1"), one("memory://")

    assert (named.scheme, named.host, str(named)) == ("memory", "t1", "memory://t1")
    assert unnamed.host == "default"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://:hunter2@localhost/0", "Redis is a result store here: result_backend='redis://...'"),
        ("rediss://h", "Redis is a result store here"),
        ("sentinel://h;sentinel://i", "Redis is a result store here"),
        ("sqla+sqlite:///x.db", "A database is a result store here: result_backend='db+...'"),
        ("postgresql://h/x", "A database is a result store here"),
        ("sqs://", "sqs:// is a broker of Celery's, not of amqptasks"),
        ("kafka://h", "kafka:// is a broker of Celery's"),
        ("rpc://", "rpc:// is a result backend: result_backend='rpc://'"),
        ("http://h:15672", "RabbitMQ's management page"),
        ("ampq://h", "did you mean amqp://?"),
        ("gopher://h", "the schemes are amqp://, amqps:// and memory://"),
        ("", "the broker URL is empty"),
        (" ; ", "the broker URL is empty"),
        ("amqp:/h", "is not a broker URL"),
        ("amqp://h:http/", "the port must be a number"),
        ("amqp://h:99999/", "the port must be a number"),
        ("amqp://u:hunter2#x@h/", "percent-encoded"),
        ("amqp://h/v#x", "has a '#'"),
        ("amqp://u:hunter2@a//,amqp://u:hunter2@b//", "separated by ';'"),
        ("amqp://a,b", "separated by ';'"),
        ("amqp://h?hearbeat=3", "did you mean 'heartbeat'?"),
        ("amqp://h?zzz=3", "known are heartbeat"),
        (
            "amqp://u:hunter2@h?heartbeat=often",
            "'heartbeat' of the broker URL 'amqp://u:**@h?heartbeat=often' must be",
        ),
        ("amqp://h?heartbeat=-1", "must be seconds"),
        ("amqp://h?heartbeat=nan", "must be seconds"),
        ("amqp://h?verify=perhaps", "verify_peer or verify_none"),
        ("amqp://h?login_method=MAGIC", "PLAIN, AMQPLAIN or EXTERNAL"),
        ("memory://a;amqp://b", "cannot be listed with other hosts"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(url)

    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_key_of_broker_use_ssl_is_named() -> None:
    with pytest.raises(
        ImproperlyConfigured, match="unknown key 'ca_cert' in broker_use_ssl; did you mean 'ca_certs'"
    ):
        parse("amqp://h", use_ssl={"ca_cert": "x"})
