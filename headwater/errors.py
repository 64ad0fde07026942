"""What can go wrong, by what the caller should do about it. Each message ends with the remedy."""

from __future__ import annotations


class HeadwaterError(Exception):
    """Base of every error that a user can mend; shown as one line, without a stack trace."""


class DefinitionError(HeadwaterError):
    """An object of the catalogue cannot be served as it is defined."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name}: {reason}. {remedy}.")
        self.name, self.reason, self.remedy = name, reason, remedy


class BreakingChangeError(HeadwaterError):
    """An apply would break what is served; `broken` says what, one line each."""

    def __init__(self, broken: list[str]) -> None:
        super().__init__(
            f"refused, since it breaks what is served: {'; '.join(broken)}. "
            "Keep what is there beside what is new, or `headwater apply --force`"
        )
        self.broken = broken


class SettingError(HeadwaterError):
    """An environment variable makes no sense."""

    def __init__(self, key: str, value: str, wanted: str) -> None:
        super().__init__(f"{key}={value!r} makes no sense: it wants {wanted}.")


class BadRequestError(HeadwaterError):
    """The client's mistake; `status` is the HTTP status that says so.

    `feast_class` is the class of `feast.errors` that Feast's own clients then raise.
    """

    def __init__(self, message: str, status: int = 422, feast_class: str = "") -> None:
        super().__init__(message)
        self.status, self.feast_class = status, feast_class


class StoreUnavailableError(HeadwaterError):
    """A store did not answer in time; the same request may succeed later."""


class MessageTooLargeError(StoreUnavailableError):
    """A Kafka topic takes no message as large as one of those that were sent; none was."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} takes no message so large; raise its max.message.bytes")


class LogConflictError(HeadwaterError):
    """Another worker appended this partition's events; drop the batch and start from its offset."""


class FencedError(HeadwaterError):
    """The group gave these partitions to another worker; drop what is not committed."""


class RebuildBusyError(HeadwaterError):
    """Another process rebuilds this project's state; watch the progress, or come back later."""


class StateLostError(HeadwaterError):
    """Redis lost state that this worker builds on; begin again from what it holds."""
