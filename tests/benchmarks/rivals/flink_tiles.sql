-- The topic, read once to its present end.
CREATE TABLE orders (
  user_id BIGINT, amount DOUBLE, quantity INT, country STRING, device STRING, session STRING,
  `at` BIGINT, ts AS TO_TIMESTAMP_LTZ(`at`, 3),
  WATERMARK FOR ts AS ts - INTERVAL '$grace_s' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '$topic', 'properties.bootstrap.servers' = '$servers',
  'properties.group.id' = 'flink', 'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'latest-offset', 'format' = 'json'
);

-- Where the tiles go.
CREATE TABLE tiles (
  user_id BIGINT, start_at TIMESTAMP(3), n BIGINT, total DOUBLE, mean DOUBLE,
  least DOUBLE, most DOUBLE
) WITH ($sink);

-- The job.
INSERT INTO tiles
SELECT user_id, window_start, COUNT(amount), SUM(amount), AVG(amount), MIN(amount), MAX(amount)
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '$tile_s' SECOND))
GROUP BY user_id, window_start, window_end
