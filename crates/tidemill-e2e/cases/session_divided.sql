-- Two columns tell sessions apart and a third divides their rows.
-- @rows orders: 700 apart 1500
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
SELECT region, currency, paid, window_start, window_end, count(*) AS n, sum(amount) AS total
FROM SESSION(orders, at, INTERVAL '20 seconds', PARTITION BY region, currency)
GROUP BY region, currency, paid, window_start, window_end HAVING count(*) > 1
