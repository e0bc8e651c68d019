-- The three largest orders of each region over all time, with their places.
-- @rows orders: 500 apart 1000
-- @targets view upsert region,place
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
SELECT region, CAST(place AS BIGINT) AS place, amount, id
FROM (
  SELECT region, amount, id, row_number() over (PARTITION BY region ORDER BY amount DESC, id) AS place
  FROM orders WHERE region IS NOT NULL
)
WHERE place <= 3
