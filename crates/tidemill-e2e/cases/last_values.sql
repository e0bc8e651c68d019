-- The last values of each customer by time, without DISTINCT ON.
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
SELECT customer, last_value(price ORDER BY at) AS price, last_value(region ORDER BY at) AS region
FROM orders
GROUP BY customer
