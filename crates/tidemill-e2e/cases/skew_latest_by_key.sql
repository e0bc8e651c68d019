-- Most orders are of one region, whose newest changes all the time.
-- @rows orders: 500 apart 200
-- @words orders.region: eu, eu, eu, eu, eu, us, ap, af
-- @targets upsert region view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  region VARCHAR,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT DISTINCT ON (region) region, id, customer, at FROM orders WHERE region IS NOT NULL ORDER BY region, at DESC
