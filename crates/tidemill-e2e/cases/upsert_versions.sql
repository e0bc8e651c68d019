-- Of several rows of one key the greatest by sequence stays, in whatever order and in however many epochs they come.
-- @rows orders: 300 apart 1000
-- @targets upsert customer
-- @sequence id
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  region VARCHAR,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @oracle
SELECT customer, id, amount, region
FROM (SELECT *, row_number() OVER (PARTITION BY customer ORDER BY id DESC) AS version FROM orders WHERE customer IS NOT NULL)
WHERE version = 1
-- @query
SELECT customer, id, amount, region FROM orders WHERE customer IS NOT NULL
