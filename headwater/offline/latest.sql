-- The newest row of each entity. {keys}: its columns; {order}: newest first.
SELECT * FROM rows
QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1
