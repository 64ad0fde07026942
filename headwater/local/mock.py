"""librdkafka's mock Kafka cluster, out of confluent-kafka's wheel, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from headwater.errors import HeadwaterError


class MockKafka:
    """One broker in memory, up when the constructor returns; it ends with this process."""

    def __init__(self) -> None:
        """Raises HeadwaterError where confluent-kafka's librdkafka cannot be loaded."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headwater.local.mock_server"],
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
