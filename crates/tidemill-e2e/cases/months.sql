-- Months are as long as they are.
-- @rows orders: 500 apart 36000000
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
SELECT paid, window_start, window_end, count(*) AS n, min(at) AS first, max(at) AS last
FROM TUMBLE(orders, at, INTERVAL '1 month')
GROUP BY paid, window_start, window_end
