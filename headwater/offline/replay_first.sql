-- The least event time in the log, microseconds.
SELECT epoch_us(min({event})) AS first_us FROM read_parquet({files}, union_by_name = true)
