-- Sessions of each customer, every kind of aggregate, NULL a customer like any other.
-- @rows orders: 600 apart 900
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
  customer, window_start, window_end,
  count(*) AS n, sum(amount) AS total, avg(price) AS mean, count(DISTINCT region) AS regions, min(at) AS first, max(at) AS last
FROM SESSION(orders, at, INTERVAL '15 seconds', PARTITION BY customer)
GROUP BY customer, window_start, window_end
