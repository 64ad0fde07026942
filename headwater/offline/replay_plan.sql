-- The log's partitions in cells of {cell} offsets: what is there, and how new it is.
SELECT {topic_column}, {partition_column}, min({offset}), max({offset}), count(*),
       max(epoch_us({event}))
FROM read_parquet({files}, union_by_name = true)
WHERE {offset} IS NOT NULL
GROUP BY {topic_column}, {partition_column}, {offset} // {cell}
ORDER BY {topic_column}, {partition_column}, min({offset})
