"""Broker URLs, read as Celery's users mean them: one value per host, TLS included. Opens nothing.

    amqp://user:password@host:port/vhost?heartbeat=10        one broker
    amqp://guest@localhost//                                 virtual host "/", password "guest"
    amqp://a//;amqp://b//        or a list of URLs            several hosts of one cluster, tried in turn
    amqps://host/vhost?cacertfile=ca.pem                     TLS, port 5671
    memory://name                                            the broker inside this process, for tests

Knows neither settings nor drivers. Reserved characters (`@ : / ? # ; %`) in names and passwords are
percent-encoded.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_url

Scheme = Literal["amqp", "amqps", "memory"]

DEFAULT_USER = "guest"
DEFAULT_PASSWORD = "guest"  # noqa: S105 (the broker's own, good on localhost only)
DEFAULT_PORTS: Mapping[Scheme, int] = {"amqp": 5672, "amqps": 5671, "memory": 0}


@dataclass(frozen=True, slots=True)
class TLS:
    """How to speak TLS. The server's certificate and name are verified unless told otherwise.

    Empty `cafile` and `capath` mean the system's authorities; an empty `server_name` means the URL's host.
    """

    cafile: str = ""
    capath: str = ""
    certfile: str = ""
    keyfile: str = ""
    password: str = field(default="", repr=False)
    verify: bool = True
    check_hostname: bool = True
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """Return a fresh client context. Reads the files each time, so renewed ones count at a reconnect.

        Raises OSError (ssl.SSLError included) when a file is missing or is no certificate.
        """
        context = ssl.create_default_context(cafile=self.cafile or None, capath=self.capath or None)
        # check_hostname refuses CERT_NONE, so it is switched first.
        context.check_hostname = self.verify and self.check_hostname
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile or None, self.password or None)
        return context


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """One host to connect to. Its text, repr included, never shows the password.

    `options` holds what the query said, checked and typed: `heartbeat` and `connection_timeout` (seconds,
    float), `login_method` (PLAIN, AMQPLAIN or EXTERNAL), `frame_max` and `channel_max` (int), `name` (str).
    They win over the settings of the same meaning. `tls` is None for `amqp` and `memory`.
    """

    scheme: Scheme
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tls: TLS | None = None

    def masked(self) -> str:
        """Return the URL with `**` in place of the password, as banners and logs show it."""
        if self.scheme == "memory":
            return f"memory://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{quote(self.user, safe='')}:**@{host}:{self.port}/{quote(self.vhost)}"

    def __str__(self) -> str:
        return self.masked()


def parse(url: str | Sequence[str], use_ssl: bool | Mapping[str, Any] = False) -> tuple[BrokerURL, ...]:
    """Return one value per host, in the order written. `use_ssl` is the setting `broker_use_ssl`.

    Raises ImproperlyConfigured, with the cure and never with a password.
    """
    listed = url.split(";") if isinstance(url, str) else [part for one in url for part in one.split(";")]
    texts = [text.strip() for text in listed if text.strip()]
    if not texts:
        raise ImproperlyConfigured("the broker URL is empty; write for example amqp://guest@localhost//")
    parsed = tuple(_parse_one(text, use_ssl) for text in texts)
    if len(parsed) > 1 and any(one.scheme == "memory" for one in parsed):
        raise ImproperlyConfigured(
            "memory:// is one broker inside this process; it cannot be listed with other hosts"
        )
    return parsed


def _parse_one(text: str, use_ssl: bool | Mapping[str, Any]) -> BrokerURL:
    if "://" not in text:
        text = _with_scheme(text)
    prefix, rest = text.split("://", 1)
    scheme = _scheme(prefix.lower(), text)
    if scheme == "memory":
        return BrokerURL("memory", unquote(rest.strip("/")) or "default", 0, "", "", "/")

    parts, port = _split(rest, text)
    options, given = _query(parts.query, text)
    secure = _tls(given, use_ssl, scheme, text)
    actual: Scheme = "amqps" if secure is not None else "amqp"
    return BrokerURL(
        scheme=actual,
        host=unquote(parts.hostname or "") or "localhost",
        port=port or DEFAULT_PORTS[actual],
        user=unquote(parts.username or "") or DEFAULT_USER,
        password=unquote(parts.password or "") or DEFAULT_PASSWORD,
        # What stands after the first slash, so that `//` is the virtual host "/", as nothing at all is.
        vhost=unquote(parts.path[1:]) or "/",
        options=options,
        tls=secure,
    )


def _with_scheme(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+(:\d+)?(/[^@]*)?", text):
        return f"amqp://{text}"
    raise ImproperlyConfigured(
        f"{_shown(text)} is not a broker URL; write amqp://user:password@host:port/vhost, for example "
        "amqp://guest@localhost//"
    )


def _split(rest: str, text: str) -> tuple[SplitResult, int | None]:
    """Read authority, path and query by the rules of http URLs, as kombu does."""
    try:
        parts = urlsplit(f"http://{rest}")
        port = parts.port
    except ValueError:
        # The chained error would quote what it took for a port: often a piece of the password.
        raise ImproperlyConfigured(
            f"the broker URL {_shown(text)} cannot be read: the port must be a number up to 65535, and "
            "@ : / ? # ; in a user name or password are percent-encoded: %40 %3A %2F %3F %23 %3B"
        ) from None
    if parts.fragment:
        raise ImproperlyConfigured(f"the broker URL {_shown(text)} has a '#'; percent-encode it as %23")
    if "," in (parts.hostname or "") or ",amqp" in rest.replace(" ", ""):
        raise ImproperlyConfigured(
            f"the broker URL {_shown(text)} has a ','; several URLs are separated by ';'"
        )
    return parts, port


def _shown(text: str) -> str:
    return repr(mask_url(text))


# --- schemes ---------------------------------------------------------------------------------------------

_SCHEMES: Mapping[str, Scheme] = {
    "amqp": "amqp",
    "pyamqp": "amqp",
    "librabbitmq": "amqp",
    "rabbitmq": "amqp",
    "amqps": "amqps",
    "amqp+ssl": "amqps",
    "pyamqps": "amqps",
    "memory": "memory",
}

_BROKER = "the broker must be RabbitMQ: broker_url='amqp://user:password@host//'"
_DATABASE = f"A database is a result store here: result_backend='db+...'; {_BROKER}"
_REDIS = f"Redis is a result store here: result_backend='redis://...'; {_BROKER}"
_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(("redis", "rediss", "sentinel", "redis+socket", "valkey"), _REDIS),
    **dict.fromkeys(
        ("db", "sqla", "sqlalchemy", "sqlite", "postgresql", "postgres", "mysql", "django"), _DATABASE
    ),
    **dict.fromkeys(("sqs", "azureservicebus", "azurestoragequeues", "gcpubsub", "slmq"), ""),
    **dict.fromkeys(("kafka", "confluentkafka", "mongodb", "zookeeper", "consul", "etcd", "filesystem"), ""),
    **dict.fromkeys(("qpid", "pyro", "nats", "mqtt", "beanstalk"), ""),
    "rpc": f"rpc:// is a result backend: result_backend='rpc://'; {_BROKER}",
    "http": f"That is the address of RabbitMQ's management page; {_BROKER}",
    "https": f"That is the address of RabbitMQ's management page; {_BROKER}",
}


def _scheme(prefix: str, text: str) -> Scheme:
    known = _SCHEMES.get(prefix)
    if known is not None:
        return known
    kind = prefix if prefix in _FOREIGN else prefix.split("+", 1)[0]
    if kind in _FOREIGN:
        raise ImproperlyConfigured(
            _FOREIGN[kind] or f"{kind}:// is a broker of Celery's, not of amqptasks; {_BROKER}"
        )
    near = difflib.get_close_matches(prefix, _SCHEMES, n=1)
    cure = f"did you mean {near[0]}://?" if near else "the schemes are amqp://, amqps:// and memory://"
    raise ImproperlyConfigured(f"unknown scheme {prefix!r} in the broker URL {_shown(text)}; {cure}")


# --- query parameters ------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _truth(text: str) -> bool:
    truths = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    return truths[text.lower()]


def _verification(text: str) -> bool:
    """Read RabbitMQ's verify_peer|verify_none, Python's CERT_*, kombu's none|optional|required."""
    word = text.lower().removeprefix("verify_").removeprefix("cert_")
    if word in ("peer", "required", "optional"):
        return True
    return word != "none" and _truth(word)


def _login(text: str) -> str:
    if text.upper() not in ("PLAIN", "AMQPLAIN", "EXTERNAL"):
        raise ValueError(text)
    return text.upper()


_Reader = tuple[str, Callable[[str], Any], str]

# name in the query -> (name here, reader, what is expected)
_OPTIONS: Mapping[str, _Reader] = {
    "heartbeat": ("heartbeat", _seconds, "seconds"),
    "connection_timeout": ("connection_timeout", _seconds, "seconds"),
    "connect_timeout": ("connection_timeout", _seconds, "seconds"),
    "login_method": ("login_method", _login, "PLAIN, AMQPLAIN or EXTERNAL"),
    "auth_mechanism": ("login_method", _login, "PLAIN, AMQPLAIN or EXTERNAL"),
    "frame_max": ("frame_max", _natural, "a number of bytes"),
    "channel_max": ("channel_max", _natural, "a number"),
    "name": ("name", str, "a text"),
}

# The names of RabbitMQ's URI specification, of Python's ssl module (broker_use_ssl), and of other clients.
_TLS_OPTIONS: Mapping[str, _Reader] = {
    **dict.fromkeys(("cacertfile", "cafile", "ca_certs"), ("cafile", str, "a path")),
    "capath": ("capath", str, "a path"),
    "certfile": ("certfile", str, "a path"),
    "keyfile": ("keyfile", str, "a path"),
    **dict.fromkeys(("password", "keyfile_password"), ("password", str, "a text")),
    **dict.fromkeys(("verify", "cert_reqs"), ("verify", _verification, "verify_peer or verify_none")),
    "check_hostname": ("check_hostname", _truth, "true or false"),
    **dict.fromkeys(
        ("server_name_indication", "server_hostname", "server_name"), ("server_name", str, "a host name")
    ),
}


def _query(query: str, text: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the options, and the TLS fields: None when no parameter speaks of TLS."""
    options: dict[str, Any] = {}
    tls: dict[str, Any] = {}
    wanted: bool | None = None
    for key, value in parse_qsl(query, keep_blank_values=True):
        name = key.lower().replace("-", "_")
        bare = name.removeprefix("ssl_")
        if name == "ssl":
            wanted = _read(("ssl", _truth, "true or false"), key, value, text)
        elif name in _OPTIONS:
            options[_OPTIONS[name][0]] = _read(_OPTIONS[name], key, value, text)
        elif bare in _TLS_OPTIONS:
            tls[_TLS_OPTIONS[bare][0]] = _read(_TLS_OPTIONS[bare], key, value, text)
        else:
            raise ImproperlyConfigured(_unknown(name, text))
    return options, tls if tls or wanted else None


def _read(reader: _Reader, key: str, value: str, text: str) -> Any:
    try:
        return reader[1](value)
    except (ValueError, KeyError):
        raise ImproperlyConfigured(
            f"the parameter {key!r} of the broker URL {_shown(text)} must be {reader[2]}, not {value!r}"
        ) from None


def _unknown(name: str, text: str) -> str:
    known = [*_OPTIONS, *_TLS_OPTIONS, "ssl"]
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown parameter {name!r} in the broker URL {_shown(text)}; {cure}"


def _tls(
    given: dict[str, Any] | None, use_ssl: bool | Mapping[str, Any], scheme: Scheme, text: str
) -> TLS | None:
    """Merge the setting `broker_use_ssl` with the URL; the URL wins. Any of the three asks for TLS."""
    fields: dict[str, Any] = {}
    for key, value in (use_ssl if isinstance(use_ssl, Mapping) else {}).items():
        name = str(key).removeprefix("ssl_")
        if name not in _TLS_OPTIONS:
            near = difflib.get_close_matches(name, _TLS_OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_TLS_OPTIONS)}"
            raise ImproperlyConfigured(f"unknown key {key!r} in broker_use_ssl; {hint}")
        reader = _TLS_OPTIONS[name]
        fields[reader[0]] = _ssl_value(reader, key, value)
    if scheme != "amqps" and not use_ssl and given is None:
        return None
    return TLS(**{**fields, **(given or {})})


def _ssl_value(reader: _Reader, key: str, value: Any) -> Any:
    if isinstance(value, ssl.VerifyMode | int):  # cert_reqs=ssl.CERT_NONE; a plain True or False reads alike
        return bool(value)
    if value is None:
        return TLS.__dataclass_fields__[reader[0]].default
    try:
        return reader[1](str(value))
    except (ValueError, KeyError):
        raise ImproperlyConfigured(f"{key!r} in broker_use_ssl must be {reader[2]}, not {value!r}") from None
