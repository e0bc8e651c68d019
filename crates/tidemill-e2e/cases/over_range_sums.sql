-- Each row with what came before it in time; rows of the same time see each other.
-- @rows orders: 500 apart 900
-- @targets files log delta view
-- @waits
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
  id, region, at,
  sum(amount) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW) AS total,
  count(*) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW) AS n,
  max(id) OVER (PARTITION BY paid ORDER BY at RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS highest
FROM orders
