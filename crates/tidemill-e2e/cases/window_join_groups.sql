-- Two aggregates of the same windows, side by side, and a window over them.
-- @rows orders: 300 apart 1000
-- @rows refunds: 200 apart 1500
-- @targets files log view
-- @waits
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

CREATE TABLE refunds (
  id BIGINT,
  region VARCHAR,
  paid BOOLEAN,
  refunded_at TIMESTAMP,
  WATERMARK FOR refunded_at AS refunded_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT window_start, sum(orders) AS orders, sum(refunds) AS refunds
FROM TUMBLE((
  SELECT o.window_start AS minute, o.n AS orders, r.n AS refunds
  FROM (
    SELECT region, window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '30 seconds') GROUP BY region, window_start
  ) AS o
  JOIN (
    SELECT region, window_start, count(*) AS n FROM TUMBLE(refunds, refunded_at, INTERVAL '30 seconds') GROUP BY region, window_start
  ) AS r ON o.window_start = r.window_start AND o.region = r.region
), minute, INTERVAL '2 minutes')
GROUP BY window_start, window_end
