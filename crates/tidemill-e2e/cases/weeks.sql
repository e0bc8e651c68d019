-- Weeks begin on Monday.
-- @rows orders: 400 apart 10800000
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
SELECT region, window_start, window_end, count(*) AS n, sum(amount) AS total
FROM TUMBLE(orders, at, INTERVAL '1 week')
GROUP BY region, window_start, window_end
