-- Rows behind time are counted, all others go out once.
-- @rows orders: 600 apart 1000 late 0.08
-- @late n
-- @targets files log
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
  CAST(1 AS BIGINT) AS n,
  count(*) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS before
FROM orders
