-- Two tables as one; time is what both have reached.
-- @rows orders: 300 apart 1000
-- @rows refunds: 120 apart 2400
-- @targets files view
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
  amount DECIMAL(12, 2),
  region VARCHAR,
  refunded_at TIMESTAMP,
  WATERMARK FOR refunded_at AS refunded_at - INTERVAL '10 seconds'
) WITH (@input);

CREATE VIEW movements AS
SELECT region, amount, at FROM orders WHERE amount > 0
UNION ALL
SELECT region, -amount AS amount, refunded_at AS at FROM refunds;

-- @query
SELECT region, window_start, sum(amount) AS total, count(*) AS n
FROM TUMBLE(movements, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
