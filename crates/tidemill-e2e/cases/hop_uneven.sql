-- A length that is no multiple of the step, and HAVING.
-- @rows orders: 400 apart 900
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

-- @query
SELECT currency, window_end, sum(amount) AS total, count(*) FILTER (WHERE paid) AS paid
FROM HOP((SELECT * FROM orders WHERE customer IS NOT NULL), at, INTERVAL '20 seconds', INTERVAL '50 seconds')
GROUP BY currency, window_end HAVING count(*) > 2
