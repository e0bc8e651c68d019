-- The group with the most orders of each region: a choice among rows that are taken back.
-- @rows orders: 400 apart 1000
-- @targets upsert region view
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
SELECT DISTINCT ON (region) region, customer, n
FROM (SELECT region, customer, count(*) AS n FROM orders WHERE region IS NOT NULL GROUP BY region, customer)
ORDER BY region, n DESC, customer
