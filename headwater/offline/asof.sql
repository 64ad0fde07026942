-- For each label the newest row of its entity that was known by then: event time <= label time.
-- Rows that tie on event time were reduced to one before ({order}); labels keep their number.
WITH newest AS (
  SELECT * FROM rows
  QUALIFY row_number() OVER (PARTITION BY {keys}, {event} ORDER BY {order}) = 1
)
SELECT labels.{number}, {features}
FROM labels ASOF LEFT JOIN newest
ON {join} AND labels.{time} >= newest.{event}
ORDER BY labels.{number}
