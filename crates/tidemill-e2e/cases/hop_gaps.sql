-- Windows with gaps between them: rows in no window are nowhere, and none is late.
-- @rows orders: 500 apart 700
-- @targets files view
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
SELECT region, window_start, window_end, count(*) AS n, min(at) AS first, max(at) AS last
FROM HOP(orders, at, INTERVAL '40 seconds', INTERVAL '15 seconds')
GROUP BY region, window_start, window_end
