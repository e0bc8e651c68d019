-- Sessions that late rows make longer and join after they were given out.
-- @rows orders: 400 apart 1000 late 0.08
-- @with allowed_lateness = '4 minutes'
-- @targets upsert region,window_start,window_end view
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
SELECT region, window_start, window_end, count(*) AS n, sum(amount) AS total
FROM SESSION((SELECT * FROM orders WHERE region IS NOT NULL), at, INTERVAL '4 seconds', PARTITION BY region)
GROUP BY region, window_start, window_end
