-- Windows that overlap: each row in five of them, money exact, NULL a key like any other.
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
  sum(amount) AS total, count(*) AS n, avg(price) AS mean, count(DISTINCT customer) AS customers, max(currency) AS high
FROM HOP(orders, at, INTERVAL '1 minute', INTERVAL '5 minutes')
GROUP BY region, paid, window_start, window_end
