-- A window over the result of windows: minutes, then the quarter hours of their minutes.
-- @rows orders: 700 apart 5000
-- @targets files view
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
SELECT region, window_start, max(n) AS busiest, sum(n) AS n
FROM TUMBLE((
  SELECT region, window_start AS minute, count(*) AS n
  FROM TUMBLE(orders, at, INTERVAL '1 minute')
  GROUP BY region, window_start, window_end
), minute, INTERVAL '15 minutes')
GROUP BY region, window_start, window_end
