-- Without a GROUP BY of windows each row is there once for each window; rows that only close windows are left out.
-- @rows orders: 300 apart 1000
-- @targets files
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
SELECT id, region, window_start, window_end
FROM HOP(orders, at, INTERVAL '30 seconds', INTERVAL '1 minute')
WHERE paid AND id < 1000000
