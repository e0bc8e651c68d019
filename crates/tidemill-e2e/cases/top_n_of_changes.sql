-- The two best customers of each region by what they bought so far: the totals change, and so does who is among the best.
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
SELECT region, customer, total
FROM (
  SELECT region, customer, total, row_number() OVER (PARTITION BY region ORDER BY total DESC, customer) AS place
  FROM (SELECT region, customer, sum(amount) AS total FROM orders GROUP BY region, customer)
)
WHERE place <= 2
