-- The best rows of each window; equal ones are chosen by the rest of the row.
-- @rows orders: 500 apart 900
-- @targets files log delta view
-- @waits
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  currency VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @oracle
SELECT id, region, paid, window_start, CAST(n AS BIGINT) AS place
FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start, region ORDER BY paid DESC, id) AS n
  FROM TUMBLE(orders, at, INTERVAL '2 minutes')
)
WHERE n <= 3

-- @query
SELECT id, region, paid, window_start, CAST(n AS BIGINT) AS place
FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start, region ORDER BY paid DESC) AS n
  FROM TUMBLE(orders, at, INTERVAL '2 minutes')
)
WHERE n <= 3
