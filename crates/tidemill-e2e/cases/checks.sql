-- Each policy of CHECK, NOT NULL and a missing event time: a row has one fate, the first that meets it, and each is counted.
-- @rows orders: 500 apart 1000 timeless 0.02
-- @accept orders: region IS NOT NULL AND coalesce(amount > -5000, true) AND coalesce(price < 10000, true) AND at IS NOT NULL
-- @counts dead region null: region IS NULL
-- @counts dead not too low: region IS NOT NULL AND amount <= -5000
-- @counts dropped: region IS NOT NULL AND coalesce(amount > -5000, true) AND price >= 10000
-- @counts warned: region IS NOT NULL AND coalesce(amount > -5000, true) AND coalesce(price < 10000, true) AND NOT paid
-- @counts dead no event time: region IS NOT NULL AND coalesce(amount > -5000, true) AND coalesce(price < 10000, true) AND at IS NULL
-- @targets files log view
CREATE TABLE orders (
  id BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR NOT NULL,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds',
  CONSTRAINT not_too_low CHECK (amount > -5000) ON VIOLATION DEAD LETTER,
  CONSTRAINT not_too_dear CHECK (price < 10000) ON VIOLATION DROP,
  CONSTRAINT is_paid CHECK (paid) ON VIOLATION WARN,
  CONSTRAINT numbered CHECK (id > 0) ON VIOLATION FAIL
) WITH (@input);

-- @query
SELECT region, paid, window_start, count(*) AS n, sum(amount) AS total
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, paid, window_start, window_end
