-- Two tables as one, row by row; equal rows stay as many as they are.
-- @rows orders: 250 apart 1000
-- @rows refunds: 150 apart 1000
-- @targets log delta
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
  refunded_at TIMESTAMP,
  WATERMARK FOR refunded_at AS refunded_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT region, 'order' AS what FROM orders
UNION ALL
SELECT region, 'refund' FROM refunds
UNION ALL
SELECT region, 'order' FROM orders WHERE paid
