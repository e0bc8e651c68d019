-- Groups come and go with a condition on their result.
-- @rows orders: 400 apart 1000
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
SELECT customer, count(*) AS n FROM orders GROUP BY customer HAVING count(*) % 2 = 0
