-- Windows made of the ends of windows: one that ends where an outer one begins counts there.
-- @rows orders: 400 apart 1000
-- @targets files log view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  region VARCHAR,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT window_start, count(*) AS n, max(orders) AS busiest, sum(orders) AS orders
FROM TUMBLE((
  SELECT region, window_end AS ended, count(*) AS orders
  FROM TUMBLE(orders, at, INTERVAL '20 seconds')
  GROUP BY region, window_start, window_end
), ended, INTERVAL '1 minute')
GROUP BY window_start, window_end
