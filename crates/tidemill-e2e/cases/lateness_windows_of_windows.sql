-- Windows of windows: the inner ones count when no late row is waited for any more.
-- @rows orders: 500 apart 1000 late 0.08
-- @with allowed_lateness = '4 minutes'
-- @targets files log view
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
SELECT window_start, max(n) AS most, sum(n) AS n
FROM TUMBLE((
  SELECT region, window_start AS began, count(*) AS n
  FROM TUMBLE(orders, at, INTERVAL '10 seconds')
  GROUP BY region, window_start, window_end
), began, INTERVAL '1 minute')
GROUP BY window_start, window_end
