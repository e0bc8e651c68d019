-- A view without windows shows what holds over all rows so far.
-- @rows orders: 500 apart 1000
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
SELECT
  region, paid, count(*) AS n, sum(amount) AS total, min(price) AS low, max(at) AS newest,
  count(DISTINCT customer) AS customers
FROM orders
GROUP BY region, paid
