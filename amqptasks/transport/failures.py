"""What pika, the operating system and the broker say, as our errors: a sentence with the cure. Pure.

The texts of the broker are those of RabbitMQ 3.10 to 4.3; what is not recognised is passed on with its code.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import pika.exceptions

from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ChannelClosed,
    ConnectionLost,
    NotFound,
    QueueDown,
    ResourceLocked,
    TLSFailed,
    TopologyMismatch,
    TransportError,
    VhostNotFound,
)
from amqptasks.transport.url import BrokerURL

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>\w+) '(?P<name>.*?)' in vhost '(?P<vhost>.*?)': "
    r"received (?P<asked>.+?) but current is (?P<has>.+)$",
    re.DOTALL,
)
_VALUE = re.compile(r"^(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>.*?)')?$", re.DOTALL)
_EXCHANGE = re.compile(r"exchange '(?P<name>[^']*)'")
_TOPIC = re.compile(r"topic '(?P<key>[^']*)' in exchange '(?P<name>[^']*)'")
_SIZE = re.compile(r"message size (\d+) is larger")

_SPECIFIC: Final = (AccessRefused, VhostNotFound, TLSFailed, BrokerUnavailable)
"""Whose message says most, when several hosts refuse for different reasons."""


# --- opening ---------------------------------------------------------------------------------------------


def refused(error: BaseException, url: BrokerURL, timeout: float) -> BrokerUnavailable:
    """Say why this host did not let us in."""
    where = f"{url.host}:{url.port}"
    if isinstance(error, BrokerUnavailable):
        return error
    if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
        return closed_at_open(error.reply_code, error.reply_text, url)
    if isinstance(error, ssl.SSLError):
        return _tls(error, url)
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(
            f"{where} did not answer within {timeout:g} s; is it RabbitMQ, and reachable from here?"
        )
    if isinstance(error, socket.gaierror):
        return BrokerUnavailable(
            f"the host name {url.host!r} cannot be resolved ({error.strerror}); check the broker URL"
        )
    if isinstance(error, OSError):
        return _os_error(error, url)
    if isinstance(error, pika.exceptions.AuthenticationError):
        return no_login(url, str(error.args[0]))
    if isinstance(error, pika.exceptions.InvalidFrameError | pika.exceptions.ProtocolVersionMismatch):
        return BrokerUnavailable(f"{where} does not speak AMQP 0-9-1; check host and port ({error.args[0]})")
    if isinstance(error, pika.exceptions.StreamLostError):
        return hung_up(url)
    return BrokerUnavailable(f"{where}: {type(error).__name__}: {error}")


def no_login(url: BrokerURL, method: str) -> AccessRefused:
    return AccessRefused(
        f"{url.host}:{url.port} does not offer the login method {method}; enable it on the broker"
    )


def context(url: BrokerURL) -> ssl.SSLContext | None:
    """Read the TLS files anew: they may have been renewed since the last attempt. Raises TLSFailed."""
    if url.tls is None:
        return None
    try:
        return url.tls.context()
    except OSError as error:
        files = [url.tls.cafile, url.tls.capath, url.tls.certfile, url.tls.keyfile]
        named = ", ".join(repr(file) for file in files if file) or "none named"
        raise TLSFailed(f"the TLS files ({named}) cannot be used: {error.strerror or error}") from error


def hung_up(url: BrokerURL) -> BrokerUnavailable:
    hint = "is it RabbitMQ?" if url.tls is not None else "is it RabbitMQ? For a TLS port write amqps://"
    return BrokerUnavailable(f"{url.host}:{url.port} closed the connection during the handshake; {hint}")


def _os_error(error: OSError, url: BrokerURL) -> BrokerUnavailable:
    where = f"{url.host}:{url.port}"
    text = error.strerror or str(error)
    # A name with several addresses gives one error with all their texts.
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in text:
        return BrokerUnavailable(f"{where} refused the connection; is RabbitMQ running there?")
    if isinstance(error, ConnectionResetError):
        return hung_up(url)
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return BrokerUnavailable(f"{where} cannot be reached ({text}); check network and firewall")
    return BrokerUnavailable(f"{where} cannot be reached ({text})")


def _tls(error: ssl.SSLError, url: BrokerURL) -> TLSFailed:
    where = f"{url.host}:{url.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return TLSFailed(
            f"the certificate of {where} is not trusted ({error.verify_message}); "
            "name its authority (ca_certs), or the host that it was made for"
        )
    reason = getattr(error, "reason", None) or str(error)
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"}:
        return TLSFailed(f"{where} does not speak TLS ({reason}); for a plain port write amqp://")
    return TLSFailed(
        f"the TLS handshake with {where} failed ({reason}); check certificates and versions on both sides"
    )


def closed_at_open(code: int, text: str, url: BrokerURL) -> BrokerUnavailable:
    """Say why the broker ended a connection that was about to be opened, from what its `connection.close` said."""
    where = f"{url.host}:{url.port}"
    said = text.partition(" - ")[2] or text
    if code == 403:
        return AccessRefused(
            f"{where} refused the user {url.user!r} ({said.rstrip('.')}); "
            "check user and password in the broker URL (guest is let in from localhost only)"
        )
    if code == 530 and "not found" in text:
        cure = f"rabbitmqctl add_vhost {_quoted(url.vhost)}"
        return VhostNotFound(f"{where} has no virtual host {url.vhost!r}; create it: {cure}")
    if code == 530 and "refused for user" in text and "limit" not in text:
        return AccessRefused(
            f"the user {url.user!r} may not use the virtual host {url.vhost!r} of {where}; allow it: "
            f"rabbitmqctl set_permissions -p {_quoted(url.vhost)} {_quoted(url.user)} '.*' '.*' '.*'"
        )
    return BrokerUnavailable(f"{where} closed the connection while it was opened: {code} {text}")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w./@%+=:,-]+", name) else "'" + name.replace("'", "'\\''") + "'"


def nobody(failures: Sequence[BrokerUnavailable]) -> BrokerUnavailable:
    """Return one error for all hosts: of the most specific kind, with a sentence for each."""
    if len(failures) == 1:
        return failures[0]
    kind = next(kind for kind in _SPECIFIC if any(isinstance(failure, kind) for failure in failures))
    return kind("no broker let us in: " + "; ".join(str(failure) for failure in failures))


# --- an open connection ----------------------------------------------------------------------------------


def ended(error: BaseException, where: str) -> TransportError:
    """Say why an open connection is over."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, pika.exceptions.ConnectionClosedByClient):
        return ConnectionLost(f"the connection to {where} was closed by us")
    if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
        return ConnectionLost(
            f"the broker {where} closed the connection: {error.reply_code} {error.reply_text}"
        )
    if isinstance(error, pika.exceptions.AMQPHeartbeatTimeout):
        return ConnectionLost(
            f"no heartbeat from the broker {where} ({error.args[0]}): host, network or broker hangs"
        )
    if isinstance(error, OSError):
        return ConnectionLost(f"the connection to {where} broke: {error.strerror or error}")
    said = "; ".join(str(argument) for argument in error.args) or type(error).__name__
    return ConnectionLost(f"the connection to {where} broke: {said}")


def no_answer(timeout: float, what: str, blocked: str | None) -> TransportError:
    """Say why a question was not answered in time."""
    if blocked is not None:
        return BrokerBlocked(
            f"no answer to {what} within {timeout:g} s: the broker blocks this connection ({blocked}); "
            "free memory or disk on it"
        )
    return BrokerUnavailable(
        f"no answer to {what} within {timeout:g} s: the broker is overloaded, or a quorum queue has no "
        "majority; look at the broker, then try again"
    )


# --- channels --------------------------------------------------------------------------------------------


def channel_error(code: int, text: str) -> TransportError:
    """Translate the broker's `channel.close`."""
    said = text.partition(" - ")[2] or text
    if code == 403:
        return AccessRefused(
            f"{said}; allow it: rabbitmqctl set_permissions (configure, write and read are patterns)"
        )
    if code == 404:
        if "home node" in said:
            return QueueDown(f"{said}: it exists, and is back with its node; nothing was lost", code)
        return NotFound(f"{said}; declare it first, or check the name", code)
    if code == 405:
        return ResourceLocked(f"{said.partition('. ')[0]}; it belongs to another connection", code)
    if code == 406 and (match := _INEQUIVALENT.search(said)):
        return TopologyMismatch(_mismatch(match), code)
    if code == 406 and "inequivalent" in said:
        return TopologyMismatch(said, code)
    if code == 406 and "delivery acknowledgement" in said:
        return ChannelClosed(f"{said}; raise consumer_timeout on the broker above the longest task", code)
    return ChannelClosed(f"the broker closed the channel: {code} {text}", code)


def _mismatch(match: re.Match[str]) -> str:
    argument, kind, name = match["argument"], match["kind"], match["name"]
    has, asked = _value(match["has"]), _value(match["asked"])
    return (
        f"{kind} {name!r} in virtual host {match['vhost']!r} exists with {argument} = {has}, and "
        f"{asked} was asked for; declare it as it is, or delete it and declare it anew"
    )


def _value(text: str) -> str:
    match = _VALUE.match(text.strip())
    if match is None:
        return text.strip()
    return repr(match["value"]) if match["type"] == "longstr" else match["value"]


def blamed_exchange(error: TransportError) -> tuple[str | None, str | None]:
    """Return the exchange, and for topic permissions the routing key, that a channel error names."""
    text = str(error)
    if match := _TOPIC.search(text):
        return _bare(match["name"]), match["key"]
    if match := _EXCHANGE.search(text):
        return _bare(match["name"]), None
    return None, None


def _bare(name: str) -> str:
    return "" if name == "amq.default" else name


def blamed_size(error: TransportError) -> int | None:
    """Return the size of the body that a channel error complains of."""
    match = _SIZE.search(str(error))
    return int(match[1]) if match else None
