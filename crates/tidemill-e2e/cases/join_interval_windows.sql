-- Windows over a join close when no pair of theirs can come any more.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @targets view upsert window_start
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
SELECT window_start, count(*) AS n, sum(amount) AS total
FROM TUMBLE((
  SELECT o.at, o.amount
  FROM orders AS o
  JOIN payments AS p ON o.customer = p.customer AND p.paid_at BETWEEN o.at - INTERVAL '10 seconds' AND o.at + INTERVAL '20 seconds'
), at, INTERVAL '30 seconds')
GROUP BY window_start, window_end
