-- Rows that touch a final session are late, or are too old to begin one; none is lost.
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
SELECT region, window_start, window_end, count(*) AS n
FROM SESSION(orders, at, INTERVAL '4 seconds', PARTITION BY region)
GROUP BY region, window_start, window_end
