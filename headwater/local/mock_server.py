"""The process behind `MockKafka`: prints its address, then makes a topic for each line it reads."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError

_PRODUCER = 0
_SIGNATURES: tuple[tuple[str, Any, list[Any]], ...] = (
    ("rd_kafka_conf_new", ctypes.c_void_p, []),
    (
        "rd_kafka_conf_set",
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t],
    ),
    ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_size_t]),
    ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
    ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
    (
        "rd_kafka_mock_topic_create",
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    ),
)


def _library() -> Path:
    """Where the wheel keeps librdkafka: beside the package on Linux, within it on macOS."""
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise HeadwaterError("confluent-kafka is not installed (pip install 'headwater[demo]')")
    package = Path(spec.origin).parent
    patterns = ("../confluent_kafka.libs/librdkafka*", ".dylibs/librdkafka*")
    found = sorted(path for pattern in patterns for path in package.glob(pattern))
    if not found:
        raise HeadwaterError("this confluent-kafka wheel carries no librdkafka")
    return found[0]


def _serve() -> None:
    lib = ctypes.CDLL(str(_library()))
    for name, result, arguments in _SIGNATURES:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    config = lib.rd_kafka_conf_new()
    # Errors only: it would warn that this client, which only holds the cluster, has no broker.
    lib.rd_kafka_conf_set(config, b"log_level", b"3", None, 0)
    handle = lib.rd_kafka_new(_PRODUCER, config, None, 0)
    cluster = lib.rd_kafka_mock_cluster_new(handle, 1)
    _say(lib.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    made: set[str] = set()
    for line in sys.stdin:
        topic, partitions = line.split()
        failed = topic not in made and lib.rd_kafka_mock_topic_create(
            cluster, topic.encode(), int(partitions), 1
        )
        made.add(topic)
        _say(f"!topic {topic} cannot be made (error {failed})" if failed else "made")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        _serve()
    except HeadwaterError as error:
        _say(f"!{error}")
