-- The best minute of each region so far, from windows that are still open.
-- @rows orders: 400 apart 1500
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
SELECT region, max(total) AS best, count(*) AS minutes
FROM (
  SELECT region, window_start, sum(amount) AS total
  FROM TUMBLE(orders, at, INTERVAL '1 minute')
  GROUP BY region, window_start, window_end)
GROUP BY region
