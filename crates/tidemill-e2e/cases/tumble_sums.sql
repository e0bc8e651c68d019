-- Sums, counts, means and extremes by window and keys; NULL is a key like any other.
-- @rows orders: 500 apart 1200
-- @targets files log view delta
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
  region, paid, window_start, window_end,
  sum(amount) AS total, count(*) AS n, count(customer) AS customers, sum(customer) AS s,
  avg(price) AS mean, sum(price) AS prices, min(amount) AS low, max(region) AS high
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, paid, window_start, window_end
