"""The environment becomes settings, or a message that says what would be right."""

from __future__ import annotations

import dataclasses

import pytest

from headwater.errors import SettingError
from headwater.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"PATH": "/bin", "HEADWATER_PORT": ""}) == Settings()


def test_values_are_read_as_their_kind() -> None:
    settings = Settings.from_env(
        {
            "REDIS_URL": "redis://:secret@cache:6379/1",
            "KAFKA_BOOTSTRAP_SERVERS": "one:9092,two:9092",
            "HEADWATER_PORT": "7000",
            "HEADWATER_METRICS_PORT": "0",
            "HEADWATER_LOG_FLUSH_SECONDS": "0.25",
            "HEADWATER_MEMORY_LIMIT": "512MB",
        }
    )
    assert settings == Settings(
        redis_url="redis://:secret@cache:6379/1",
        kafka_bootstrap_servers="one:9092,two:9092",
        port=7000,
        metrics_port=0,
        log_flush_seconds=0.25,
        memory_limit="512MB",
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://a:7000",
        "rediss+cluster://me:secret@a:7000,b:7001,[::1]:7002/?ssl_ca_certs=/ca.pem",
        "redis+sentinel://a:26379,b:26379/features",
        "rediss+sentinel://:secret@a:26379/features/2?sentinel_password=other",
    ],
)
def test_a_cluster_and_sentinels_are_addresses_of_redis(url: str) -> None:
    assert Settings.from_env({"REDIS_URL": url}).redis_url == url


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HEADWATER_PORT", "http", "HEADWATER_PORT='http' .* a port, 1 to 65535"),
        ("HEADWATER_PORT", "70000", "a port, 1 to 65535"),
        ("HEADWATER_PORT", "0", "a port, 1 to 65535"),
        ("HEADWATER_MAX_ENTITIES", "1.5", "a whole number greater than 0"),
        ("HEADWATER_MAX_ENTITIES", "-1", "a whole number greater than 0"),
        ("HEADWATER_REDIS_TIMEOUT_SECONDS", "nan", "a number greater than 0"),
        ("HEADWATER_REDIS_TIMEOUT_SECONDS", "inf", "a number greater than 0"),
        ("HEADWATER_LOG_LEVEL", "loud", "debug or info or warning or error"),
        ("HEADWATER_KAFKA_CLIENT", "pigeon", "kafka-python"),
        ("HEADWATER_MEMORY_LIMIT", "lots", "a size such as 4GB"),
        ("REDIS_URL", "localhost:6379", "redis://HOST:PORT/DB"),
        ("REDIS_URL", "redis+cluster://a:1,b:2/3", r"redis\+cluster://HOST:PORT"),
        ("REDIS_URL", "redis+sentinel://a:1,b:2", r"redis\+sentinel://HOST:PORT,.../SERVICE"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost", "HOST:PORT"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_what_would(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Settings.from_env({variable: value})


def test_an_unknown_setting_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match=r"HEADWATER_PROT=.*to be HEADWATER_PORT"):
        Settings.from_env({"HEADWATER_PROT": "7000"})
    with pytest.raises(SettingError, match="one of HEADWATER_ALERTMANAGER_URL"):
        Settings.from_env({"HEADWATER_ZZZZZZZZZZZZZZZZ": "1"})


def test_a_password_is_not_shown_when_its_url_is_refused() -> None:
    with pytest.raises(SettingError) as refused:
        Settings.from_env({"REDIS_URL": "http://user:hunter2@cache:6379"})
    assert "hunter2" not in str(refused.value)
    assert "cache:6379" in str(refused.value)


def test_browsers_have_a_port_of_their_own_beside_one_that_they_refuse() -> None:
    def beside(**settings: str) -> int:
        return Settings.from_env(settings).browser_port

    assert beside() == 6580
    assert beside(HEADWATER_PORT="8080") == 0
    assert beside(HEADWATER_PORT="8080", HEADWATER_UI_PORT="8081") == 8081
    assert beside(HEADWATER_UI_PORT="8081") == 8081
