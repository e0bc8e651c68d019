-- A frame that looks ahead: a row goes out when time has passed what it looks at.
-- @rows orders: 500 apart 900
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
  id, customer,
  count(*) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND INTERVAL '15 seconds' FOLLOWING) AS around
FROM orders
WHERE customer IS NOT NULL
