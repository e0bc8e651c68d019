-- Rows of both sides without a partner, with bounds that both lie on one side.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @waits
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
  customer BIGINT,
  paid BIGINT,
  paid_at TIMESTAMP,
  WATERMARK FOR paid_at AS paid_at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT o.id, p.number, coalesce(o.customer, p.customer) AS customer, o.at, p.paid_at
FROM (SELECT * FROM orders WHERE at < TIMESTAMP '2027-06-01T00:00:00') AS o
FULL JOIN (SELECT * FROM payments WHERE paid_at < TIMESTAMP '2027-06-01T00:00:00') AS p
  ON o.customer = p.customer
  AND p.paid_at > o.at + INTERVAL '5 seconds'
  AND p.paid_at <= o.at + INTERVAL '40 seconds'
  AND p.paid <> 7
