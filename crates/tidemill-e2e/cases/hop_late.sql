-- A row is late for the windows that have closed and counts in the others.
-- @rows orders: 800 apart 1000 late 0.08
-- @late n
-- @targets files log view
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
SELECT region, window_start, count(*) AS n
FROM HOP(orders, at, INTERVAL '10 seconds', INTERVAL '30 seconds')
GROUP BY region, window_start, window_end
