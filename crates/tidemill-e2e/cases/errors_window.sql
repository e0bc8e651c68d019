-- Arguments, filters and keys of aggregates fail row by row: a dead row is in no group, not even counted.
-- @rows orders: 600 apart 1000
-- @words orders.note: 1, 2, 30, 400, 5000, 60000, 700, x
-- @counts failed overflow in customer + 9223372036854775774: customer = 34
-- @counts failed bad value in CAST(note AS BIGINT): (customer IS DISTINCT FROM 34) AND paid AND note = 'x'
-- @targets files log view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  note VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @oracle
SELECT
  region, window_start, count(*) AS n, max(customer) - 33 AS most,
  sum(TRY_CAST(note AS BIGINT)) FILTER (WHERE paid) AS numbers
FROM TUMBLE(orders, at, INTERVAL '1 minute')
WHERE (customer IS DISTINCT FROM 34) AND NOT coalesce(paid AND note = 'x', false)
GROUP BY region, window_start, window_end

-- @query
SELECT
  region, window_start, count(*) AS n, max(customer + 9223372036854775774) - 9223372036854775807 AS most,
  sum(CAST(note AS BIGINT)) FILTER (WHERE paid) AS numbers
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
