-- Exact counts of different values survive cuts, lanes and restarts.
-- @rows orders: 600 apart 700
-- @targets log view
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
  region, window_start,
  count(DISTINCT customer) AS customers, count(DISTINCT currency) AS currencies, count(DISTINCT amount) AS amounts,
  sum(DISTINCT customer) AS total
FROM TUMBLE(orders, at, INTERVAL '2 minutes')
GROUP BY region, window_start, window_end
