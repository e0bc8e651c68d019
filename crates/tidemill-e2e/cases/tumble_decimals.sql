-- Money is exact: sums, means and extremes of decimals.
-- @rows orders: 400 apart 2000
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
SELECT
  currency, window_start,
  sum(amount) AS total, avg(amount) AS mean, min(amount) AS low, max(amount) AS high, sum(amount * 3) AS triple
FROM TUMBLE(orders, at, INTERVAL '90 seconds')
GROUP BY window_start, window_end, currency
