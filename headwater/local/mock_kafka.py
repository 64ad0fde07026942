"""librdkafka's mock cluster as a process: writes its address to the file it is given, and stays."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

TOPICS = ("departures", "arrivals")
PARTITIONS = 4


def library() -> ctypes.CDLL:
    """The librdkafka that confluent-kafka carries. Raises OSError where there is none."""
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent
    beside = folder.parent / "confluent_kafka.libs"
    found = [*beside.glob("librdkafka*"), *folder.glob(".dylibs/librdkafka*")]
    if not found:
        raise OSError("confluent-kafka carries no librdkafka here")
    return ctypes.CDLL(str(found[0]))


def main() -> None:
    rd = library()
    rd.rd_kafka_new.restype = ctypes.c_void_p
    rd.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    rd.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    rd.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    rd.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    rd.rd_kafka_mock_topic_create.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    error = ctypes.create_string_buffer(512)
    handle = rd.rd_kafka_new(0, None, error, 512)
    cluster = rd.rd_kafka_mock_cluster_new(handle, 1)
    for topic in sys.argv[2:] or TOPICS:
        rd.rd_kafka_mock_topic_create(cluster, topic.encode(), PARTITIONS, 1)
    target = Path(sys.argv[1])
    temporary = target.with_suffix(".new")
    temporary.write_text(rd.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    temporary.rename(target)
    signal.pause()


if __name__ == "__main__":
    main()
