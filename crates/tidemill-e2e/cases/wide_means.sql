-- Means of great numbers that cancel out: their sum is beyond 64 bits on the way, and a double would lose the rest.
-- @rows orders: 400 apart 2000
-- @targets files view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  region VARCHAR,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);
CREATE VIEW wide AS
SELECT region, at, CASE WHEN id % 2 = 0 THEN 9000000000000000000 + id ELSE id - 9000000000000000000 END AS great FROM orders;

-- @oracle
SELECT region, window_start, CAST(sum(CAST(great AS DECIMAL(38, 0))) AS DOUBLE) / count(great) AS mean
FROM TUMBLE(wide, at, INTERVAL '2 minutes')
GROUP BY region, window_start, window_end
-- @query
SELECT region, window_start, avg(great) AS mean
FROM TUMBLE(wide, at, INTERVAL '2 minutes')
GROUP BY region, window_start, window_end
