-- Both parts of a union change, and a group above them.
-- @rows orders: 300 apart 1000
-- @targets view
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
SELECT k, sum(n) AS n, max(n) AS most
FROM (
  SELECT region AS k, count(*) AS n FROM orders GROUP BY region
  UNION ALL
  SELECT currency, count(*) FROM orders WHERE paid GROUP BY currency)
GROUP BY k
