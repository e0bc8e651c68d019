-- Exact quantiles are exact in any order; approximate ones are near.
-- @rows orders: 600 apart 700
-- @approximate near 0.05
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
  paid, window_start, count(*) AS n,
  median(amount) AS middle, percentile_cont(price, 0.95) AS p95,
  approx_percentile_cont(customer + 1000, 0.5) AS near
FROM TUMBLE(orders, at, INTERVAL '3 minutes')
GROUP BY paid, window_start, window_end
