-- Changes by key that are held back for a while, over deaths too; the last ones go out when the run ends.
-- @rows orders: 400 apart 1000
-- @with emit_every = '20 ms'
-- @targets upsert customer
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
SELECT customer, count(*) AS n, sum(amount) AS total, max(at) AS newest
FROM orders
WHERE customer IS NOT NULL
GROUP BY customer
