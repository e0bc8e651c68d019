-- The best windows of each key, of those that are final.
-- @rows orders: 400 apart 1500
-- @waits
-- @targets view
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

-- @query
SELECT region, window_start, total, CAST(n AS BIGINT) AS n FROM (
  SELECT region, window_start, total, row_number() over (PARTITION BY region ORDER BY total DESC, window_start) AS n
  FROM (
    SELECT region, window_start, sum(amount) AS total
    FROM TUMBLE(orders, at, INTERVAL '30 seconds')
    GROUP BY region, window_start, window_end
  )
)
WHERE n <= 2
