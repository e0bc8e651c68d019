-- Rows without a partner in their window.
-- @rows orders: 300 apart 1000
-- @rows refunds: 200 apart 1500
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

CREATE TABLE refunds (
  id BIGINT,
  region VARCHAR,
  paid BOOLEAN,
  refunded_at TIMESTAMP,
  WATERMARK FOR refunded_at AS refunded_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT o.id, o.region, o.window_start
FROM TUMBLE(orders, at, INTERVAL '20 seconds') AS o
LEFT ANTI JOIN TUMBLE(refunds, refunded_at, INTERVAL '20 seconds') AS r
  ON r.window_start = o.window_start AND r.region = o.region AND r.paid
