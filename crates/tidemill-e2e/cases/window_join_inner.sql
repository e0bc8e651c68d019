-- Rows of two tables in the same window, with a condition beside the keys.
-- @rows orders: 300 apart 1000
-- @rows refunds: 200 apart 1500
-- @targets files log delta
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
SELECT o.window_start, o.region, o.id AS order_id, r.id AS refund_id
FROM (SELECT id, region, paid, window_start, window_end FROM TUMBLE(orders, at, INTERVAL '20 seconds')) AS o
JOIN (SELECT id, region, paid, window_start, window_end FROM TUMBLE(refunds, refunded_at, INTERVAL '20 seconds')) AS r
  ON o.window_start = r.window_start AND o.window_end = r.window_end AND o.region = r.region AND o.id < r.id * 3
