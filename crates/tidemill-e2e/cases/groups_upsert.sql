-- Groups without a window, kept in a table by their key: each epoch writes what changed.
-- @rows orders: 400 apart 1000
-- @targets upsert customer view
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
SELECT customer, count(*) AS n, sum(amount) AS total, max(at) AS newest, count(DISTINCT region) AS regions
FROM orders
WHERE customer IS NOT NULL
GROUP BY customer
