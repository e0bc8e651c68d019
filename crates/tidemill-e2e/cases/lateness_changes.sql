-- Windows shown while they are open and after they have closed, until no late row is waited for.
-- @rows orders: 400 apart 1000 late 0.08
-- @with allowed_lateness = '4 minutes'
-- @with emit = 'changes'
-- @targets upsert window_start view
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

-- @query
SELECT window_start, count(*) AS n, max(amount) AS most
FROM TUMBLE(orders, at, INTERVAL '30 seconds')
GROUP BY window_start, window_end
