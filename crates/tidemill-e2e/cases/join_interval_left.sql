-- A row without a partner goes out when none can come any more.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @waits
-- @targets files log view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  region VARCHAR,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

CREATE TABLE payments (
  number BIGINT,
  customer BIGINT,
  paid BIGINT,
  paid_at TIMESTAMP,
  WATERMARK FOR paid_at AS paid_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT o.id, p.number, o.customer, o.at, p.paid_at
FROM orders AS o
LEFT JOIN payments AS p
  ON o.customer = p.customer
  AND p.paid_at >= o.at
  AND p.paid_at < o.at + INTERVAL '30 seconds'
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'
