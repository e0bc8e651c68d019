-- The newest order of each customer, over all time: it changes as orders come.
-- @rows orders: 500 apart 1000
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
SELECT DISTINCT ON (customer) customer, id, amount * 2 AS twice, region, at
FROM orders
WHERE customer IS NOT NULL
ORDER BY customer, at DESC
