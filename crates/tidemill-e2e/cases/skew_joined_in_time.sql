-- Two of three orders and payments are of one region.
-- @rows orders: 240 apart 500
-- @rows payments: 240 apart 500
-- @words orders.region: eu, eu, eu, eu, us, ap
-- @words payments.region: eu, eu, eu, eu, us, ap
-- @targets files log
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
  region VARCHAR,
  paid BIGINT,
  paid_at TIMESTAMP,
  WATERMARK FOR paid_at AS paid_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT o.id, p.number, p.paid
FROM orders AS o
JOIN payments AS p ON o.region = p.region AND p.paid_at BETWEEN o.at - INTERVAL '20 seconds' AND o.at + INTERVAL '20 seconds'
