-- Each order with the last payment before it, in any order of arrival.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @waits
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

-- @oracle
SELECT o.id, o.customer, o.at, p.number, p.paid, p.paid_at
FROM orders AS o
LEFT JOIN (
  SELECT * FROM (
    SELECT o.id AS of, p.*, row_number() OVER (
      PARTITION BY o.id ORDER BY p.paid_at DESC, p.customer DESC NULLS FIRST, p.number DESC NULLS FIRST, p.paid DESC NULLS FIRST) AS nth
    FROM orders AS o JOIN payments AS p ON o.customer = p.customer AND p.paid_at <= o.at
  ) WHERE nth = 1
) AS p ON p.of = o.id
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'

-- @query
SELECT o.id, o.customer, o.at, p.number, p.paid, p.paid_at
FROM orders AS o
ASOF JOIN payments AS p MATCH_CONDITION (o.at >= p.paid_at) ON o.customer = p.customer
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'
