-- One window of one partition; files come in the order of their offsets.
SELECT *
FROM read_parquet({files}, union_by_name = true)
WHERE {topic_column} = {topic} AND {partition_column} = {partition}
  AND {offset} BETWEEN {first} AND {last}
