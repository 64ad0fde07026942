"""A view's place in Redis is that of its project, its name and its entities."""

from __future__ import annotations

from headwater.catalog import FieldPlan, JoinKeyPlan, ViewPlan
from headwater.online.values import ViewReader


def keys(*names: str) -> list[bytes]:
    view = ViewPlan("v", "row", tuple(JoinKeyPlan(n, "INT64") for n in names),
                    (FieldPlan("f", "INT64"),))  # fmt: skip
    return ViewReader("p", view).keys([[7]] * len(names), 1)


def test_the_same_number_of_another_entity_is_another_key() -> None:
    """A view that was given another entity served one's row as the other's."""
    assert keys("user_id") == keys("user_id")
    found = [keys("user_id"), keys("merchant_id"), keys("a", "b"), keys("a", "c"), keys()]
    assert len({one for (one,) in found}) == len(found)
