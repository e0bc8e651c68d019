-- Changes of windows that are held back until the run ends.
-- @rows orders: 400 apart 1000 late 0.05
-- @with emit_every = '1 hour'
-- @with allowed_lateness = '4 minutes'
-- @targets upsert region,window_start
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
SELECT region, window_start, count(*) AS n
FROM TUMBLE((SELECT * FROM orders WHERE region IS NOT NULL), at, INTERVAL '20 seconds')
GROUP BY region, window_start, window_end
