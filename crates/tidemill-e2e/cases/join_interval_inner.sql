-- Pairs of two streams whose times are near each other; a condition beside the keys, and one that is written as WHERE.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @targets files log view delta
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
SELECT o.id, p.number, o.customer, o.at, p.paid_at, o.amount
FROM orders AS o
JOIN payments AS p
  ON o.customer = p.customer
  AND p.paid_at BETWEEN o.at - INTERVAL '20 seconds' AND o.at + INTERVAL '1 minute'
  AND p.paid > o.id - 200
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'
