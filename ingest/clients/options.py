"""How to reach a secured Kafka: one properties file, in the names that Kafka's users know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headwater.errors import HeadwaterError

#: How dead letters are sent: what a producer compressed to fit into a topic fits again.
COMPRESSION = "gzip"


class _Option(NamedTuple):
    """An option's names in librdkafka and in kafka-python."""

    confluent: str
    kafka_python: str


_OPTIONS = {
    "security.protocol": _Option("security.protocol", "security_protocol"),
    "sasl.mechanism": _Option("sasl.mechanism", "sasl_mechanism"),
    "sasl.username": _Option("sasl.username", "sasl_plain_username"),
    "sasl.password": _Option("sasl.password", "sasl_plain_password"),
    "sasl.kerberos.service.name": _Option(
        "sasl.kerberos.service.name", "sasl_kerberos_service_name"
    ),
    "ssl.ca.location": _Option("ssl.ca.location", "ssl_cafile"),
    "ssl.certificate.location": _Option("ssl.certificate.location", "ssl_certfile"),
    "ssl.key.location": _Option("ssl.key.location", "ssl_keyfile"),
    "ssl.key.password": _Option("ssl.key.password", "ssl_password"),
    "ssl.crl.location": _Option("ssl.crl.location", "ssl_crlfile"),
    "ssl.cipher.suites": _Option("ssl.cipher.suites", "ssl_ciphers"),
    "ssl.endpoint.identification.algorithm": _Option(
        "ssl.endpoint.identification.algorithm", "ssl_check_hostname"
    ),
    "client.id": _Option("client.id", "client_id"),
    "client.rack": _Option("client.rack", "client_rack"),
}
#: librdkafka's other spelling, and the Java client's one line for name and password.
_MECHANISMS, _JAAS = "sasl.mechanisms", "sasl.jaas.config"
_CONSUMER_ONLY = ("client.rack",)


def read_options(path: Path) -> dict[str, str]:
    """The file's options under librdkafka's names. Values are secrets: no message shows them.

    Raises HeadwaterError for a file that cannot be read, or a line that is no known option.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HeadwaterError(
            f"HEADWATER_KAFKA_CONFIG: {path} cannot be read ({error}); it wants a text file of "
            "name=value lines"
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and line.strip()[0] not in "#!":
            name, equals, value = (part.strip() for part in line.partition("="))
            if not equals:
                raise HeadwaterError(f"{path}, line {number}: it wants name=value")
            found.update(_option(f"{path}, line {number}", name, value))
    return found


def _option(where: str, name: str, value: str) -> dict[str, str]:
    if name == _JAAS:
        # org.apache.kafka...PlainLoginModule required username="..." password="...";
        pairs = dict(re.findall(r'(username|password)\s*=\s*"([^"]*)"', value))
        if len(pairs) != 2:
            raise HeadwaterError(
                f'{where}: sasl.jaas.config wants username="..." and password="..."; for other '
                "mechanisms than PLAIN and SCRAM there is no support"
            )
        return {f"sasl.{key}": text for key, text in pairs.items()}
    name = "sasl.mechanism" if name == _MECHANISMS else name
    if name not in _OPTIONS:
        near = difflib.get_close_matches(name, _OPTIONS, 1)
        known = near or sorted([*_OPTIONS, _JAAS])
        raise HeadwaterError(
            f"{where}: there is no option {name}; it wants {'' if near else 'one of '}"
            f"{', '.join(known)}"
        )
    return {name: value}


def for_kafka_python(options: Mapping[str, str], *, producer: bool = False) -> dict[str, Any]:
    """The options as kafka-python's arguments."""
    arguments: dict[str, Any] = {
        _OPTIONS[name].kafka_python: value
        for name, value in options.items()
        if not (producer and name in _CONSUMER_ONLY)
    }
    if "ssl_check_hostname" in arguments:
        arguments["ssl_check_hostname"] = arguments["ssl_check_hostname"].lower() == "https"
    if "security_protocol" in arguments:
        arguments["security_protocol"] = arguments["security_protocol"].upper()
    return arguments


def for_confluent(options: Mapping[str, str], *, producer: bool = False) -> dict[str, Any]:
    """The options as librdkafka's configuration."""
    config = {
        _OPTIONS[name].confluent: value
        for name, value in options.items()
        if not (producer and name in _CONSUMER_ONLY)
    }
    check = "ssl.endpoint.identification.algorithm"
    if check in config:
        config[check] = "https" if config[check].lower() == "https" else "none"
    return config
