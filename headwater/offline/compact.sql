-- The events of some files, each partition's together and in the order of its offsets.
SELECT *
FROM read_parquet({files}, union_by_name = true)
ORDER BY {order}
