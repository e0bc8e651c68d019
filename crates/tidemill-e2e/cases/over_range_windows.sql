-- Windows over frames of time.
-- @rows orders: 500 apart 900
-- @targets files log
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
SELECT region, window_start, max(n) AS busiest
FROM TUMBLE((
  SELECT region, at, count(*) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '15 seconds' PRECEDING AND CURRENT ROW) AS n
  FROM orders
), at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
