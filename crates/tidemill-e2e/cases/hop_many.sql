-- Ninety windows a row: windows are summed from tiers of panes.
-- @rows orders: 200 apart 800
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
SELECT paid, window_start, sum(amount) AS total, count(*) AS n, min(price) AS low
FROM HOP(orders, at, INTERVAL '1 second', INTERVAL '90 seconds')
GROUP BY paid, window_start, window_end
