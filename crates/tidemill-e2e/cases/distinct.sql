-- DISTINCT within windows.
-- @rows orders: 400 apart 500
-- @targets files log
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
SELECT DISTINCT region, paid, window_start, window_end FROM TUMBLE(orders, at, INTERVAL '1 minute')
