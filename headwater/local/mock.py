"""librdkafka's mock Kafka cluster, out of confluent-kafka's wheel, in a process of its own."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

from headwater.errors import HeadwaterError

_PRODUCER = 0


class MockKafka:
    """One broker in memory, up when the constructor returns; it ends with this process."""

    def __init__(self) -> None:
        """Raises HeadwaterError where confluent-kafka's librdkafka cannot be loaded."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headwater.local.mock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.bootstrap = self._answer()

    def create_topic(self, name: str, partitions: int) -> None:
        """Asking twice for the same topic changes nothing."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(f"{name} {partitions}\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        self._process.communicate()  # closes its standard input, at whose end it exits

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith("!"):
            if not answer:
                self.close()
            raise HeadwaterError(
                f"librdkafka's mock cluster: {answer[1:] or 'it ended'}; install Java 17 and Maven "
                "for a real Kafka, or set KAFKA_BOOTSTRAP_SERVERS"
            )
        return answer


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
    """Prints the bootstrap address, then makes a topic for each line `name partitions`."""
    lib = ctypes.CDLL(str(_library()))
    for name, result, arguments in (
        ("rd_kafka_conf_new", ctypes.c_void_p, []),
        ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
        (
            "rd_kafka_mock_topic_create",
            ctypes.c_int,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        ),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    handle = lib.rd_kafka_new(_PRODUCER, lib.rd_kafka_conf_new(), None, 0)
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
