-- The last payment before an order, if it is not too old; windows over the result.
-- @rows orders: 300 apart 1000
-- @rows payments: 260 apart 1150
-- @targets files
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
SELECT window_start, count(*) AS n, count(paid) AS paid, sum(paid) AS total
FROM TUMBLE((
  SELECT o.at, p.paid
  FROM orders AS o
  LEFT JOIN (
    SELECT * FROM (
      SELECT o.id AS of, p.*, row_number() OVER (
        PARTITION BY o.id ORDER BY p.paid_at DESC, p.customer DESC NULLS FIRST, p.number DESC NULLS FIRST, p.paid DESC NULLS FIRST) AS nth
      FROM orders AS o JOIN payments AS p ON o.customer = p.customer AND p.paid_at < o.at AND p.paid_at >= o.at - INTERVAL '1 minute'
    ) WHERE nth = 1
  ) AS p ON p.of = o.id
), at, INTERVAL '1 minute')
GROUP BY window_start, window_end

-- @query
SELECT window_start, count(*) AS n, count(paid) AS paid, sum(paid) AS total
FROM TUMBLE((
  SELECT o.at, p.paid
  FROM orders AS o
  ASOF JOIN payments AS p MATCH_CONDITION (p.paid_at < o.at) ON o.customer = p.customer AND p.paid_at >= o.at - INTERVAL '1 minute'
), at, INTERVAL '1 minute')
GROUP BY window_start, window_end
