-- Keys of groups and of joins fail row by row.
-- @rows orders: 400 apart 1000
-- @words orders.note: 1, 2, 30, 400, 5000, 60000, 700, x
-- @row rates: {"weight": 1, "name": "one"}
-- @row rates: {"weight": 2, "name": "two"}
-- @row rates: {"weight": 400, "name": "many"}
-- @counts failed bad value in CAST(note AS BIGINT): note = 'x'
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

CREATE TABLE rates (weight BIGINT, name VARCHAR) WITH (@lookup);

-- @oracle
SELECT weight, name, window_start, count(*) AS n
FROM TUMBLE((SELECT TRY_CAST(o.note AS BIGINT) AS weight, r.name, o.at FROM orders AS o LEFT JOIN rates AS r ON TRY_CAST(o.note AS BIGINT) = r.weight WHERE o.note IS DISTINCT FROM 'x'), at, INTERVAL '1 minute')
GROUP BY weight, name, window_start, window_end

-- @query
SELECT CAST(note AS BIGINT) AS weight, name, window_start, count(*) AS n
FROM TUMBLE((SELECT o.note, r.name, o.at FROM orders AS o LEFT JOIN rates AS r ON CAST(o.note AS BIGINT) = r.weight), at, INTERVAL '1 minute')
GROUP BY CAST(note AS BIGINT), name, window_start, window_end
